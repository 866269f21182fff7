"""Everything that needs ONNX Runtime: sessions, latency, accuracy, equivalence and the validation made of them.

The only folder that imports onnxruntime, and only its own modules do: importing this package imports nothing.
"""
