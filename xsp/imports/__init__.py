"""Traces of other tools as profiles: one module per format, and one that makes a capture of what
they read.
"""
