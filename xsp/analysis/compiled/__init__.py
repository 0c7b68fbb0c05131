"""Kernels of compiled code, and the source layers that share them."""
