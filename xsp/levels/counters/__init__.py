"""Hardware counters of kernels, by CUPTI's Range Profiler."""
