"""Fetching: data sets come from the servers that have them, and are checked and packed once."""
