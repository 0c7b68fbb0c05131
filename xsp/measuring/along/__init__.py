"""Profiling along the user's own loop: nothing is run again."""
