"""Files that others invented; nothing in here knows of packs."""
