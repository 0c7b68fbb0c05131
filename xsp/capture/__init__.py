"""A saved profile: its tables, its file, and how files are written."""
