"""The machine that a program runs on: versions, clocks and throttling, what its processors can do
at most.
"""
