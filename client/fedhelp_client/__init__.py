"""The hospital node: data, models, release, distillation."""
