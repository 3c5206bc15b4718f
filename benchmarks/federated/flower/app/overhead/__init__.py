"""A Flower application whose training is next to nothing."""
