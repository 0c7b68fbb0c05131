"""What was measured of layers, kept for other runs, models and machines."""
