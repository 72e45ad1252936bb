"""The hospital node: local training, private release in rounds, distillation."""
