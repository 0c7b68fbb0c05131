"""A model measured over a parameter, such as its batch size."""
