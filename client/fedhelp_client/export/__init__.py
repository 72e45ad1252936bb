"""What a hospital learnt, as files that run without PyTorch, and a signed card about them."""
