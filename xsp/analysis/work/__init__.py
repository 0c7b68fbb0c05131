"""What layers, calls and kernels compute and move: FLOPs, bytes, occupancy, counters, and how near
they come to the peaks.
"""
