"""What the federation is worth: accuracy alone, distilled and central, measured on this machine."""
