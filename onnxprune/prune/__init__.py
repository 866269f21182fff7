"""Which units go. NumPy and SciPy only: gradients, activations and timings arrive as arrays."""
