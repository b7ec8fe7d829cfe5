"""The losses in the loops of other libraries. Each module here needs its library; nothing else of the package does."""
