"""One file a rival, each a straight use of that library as its documentation shows."""
