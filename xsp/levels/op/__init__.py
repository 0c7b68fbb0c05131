"""OP level: operators and backward nodes, as PyTorch itself announces them."""
