"""Two profiles compared: nodes aligned, differences judged, causes ranked and worded.
docs/compare.md.
"""
