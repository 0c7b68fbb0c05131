"""Benanza's six questions, each answered from a profile and from what a database knows."""
