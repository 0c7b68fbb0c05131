"""Models as graphs of layers without weights: from PyTorch, ONNX files and captures."""
