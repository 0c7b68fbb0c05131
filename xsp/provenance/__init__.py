"""Which layers and lines of the program the kernels of compiled code come from."""
