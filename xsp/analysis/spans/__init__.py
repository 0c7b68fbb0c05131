"""Spans as columns: built from runs, led to their parents, aligned, timed and summed into the
latency table.
"""
