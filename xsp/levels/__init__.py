"""One module per level of the stack, and the one place that chooses among them."""
