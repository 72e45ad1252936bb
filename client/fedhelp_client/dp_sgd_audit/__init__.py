"""The empirical audit of ``dp_sgd``: canaries against the training that a node runs."""
