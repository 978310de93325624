"""Getting images in: a source, as a tree or an archive of PNG files, becomes a pack."""
