"""How fast a model could be: benchmarks of its layers, lower bounds, what-if and findings."""
