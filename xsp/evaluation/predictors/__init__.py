"""What runs a model: one protocol, and a class for each runtime."""
