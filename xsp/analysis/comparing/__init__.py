"""Two profiles compared: nodes aligned, differences judged, causes ranked and put into words. docs/compare.md."""
