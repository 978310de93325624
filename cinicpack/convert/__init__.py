"""Getting images in: a source, as a tree or an archive of images, becomes a pack."""
