"""One run as a trace for viewers: chosen, laid out in lanes, written for Perfetto or Chrome."""
