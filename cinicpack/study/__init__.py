"""What the authors of CINIC-10 did in notebooks, from a pack."""
