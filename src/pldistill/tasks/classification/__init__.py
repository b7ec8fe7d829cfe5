"""Image classification: one label an image, cross-entropy, top-1."""
