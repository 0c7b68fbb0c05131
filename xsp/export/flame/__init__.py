"""What each node of the stack costs the latency, for viewers of flame graphs."""
