"""The two tables of test errors that the authors of CINIC-10 published, by one command each."""
