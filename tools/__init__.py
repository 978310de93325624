"""Programs for those who work on cinicpack."""
