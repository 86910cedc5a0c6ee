"""The ONNX front end: :func:`import_onnx` turns a model into a ``graph`` module and a weight store."""

from cimc.frontend.onnx.importer import import_onnx

__all__ = ["import_onnx"]
