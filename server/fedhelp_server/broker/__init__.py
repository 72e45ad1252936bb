"""The broker: the one way to the foundation model, used at most once."""
