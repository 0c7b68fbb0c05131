"""DLBricks (Li et al., ICPE 2020): models taken apart into unique runnable networks, each measured
once, and the latency of any model put together from them.
"""
