"""From a fitted network to ONNX: one file that leaves early, or one for each stage."""
