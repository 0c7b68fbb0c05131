"""Captures that come with the package, to look at before measuring anything."""
