"""Getting images in: a tree or an archive of PNG files becomes a pack."""
