"""What is to be evaluated: one YAML document, checked before anything is loaded or run."""
