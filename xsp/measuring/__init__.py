"""Everything left of a capture: what is run again and how, rung by rung, and what of it goes into
the capture.
"""
