"""What hangs together: labels, rules, units, removal. NumPy, SciPy, onnx and onnx-ir only."""
