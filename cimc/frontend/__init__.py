"""Front ends: what a user has (an ONNX model) to level 1, the ``graph`` dialect."""
