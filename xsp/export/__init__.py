"""Profiles handed over to other tools: one module per format, imported when it is asked for."""
