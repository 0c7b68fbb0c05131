"""Files of models: found, checked by their sha256, kept by it in a local store."""
