"""A foundation model behind the Open Inference Protocol: the stand-in for an external service."""
