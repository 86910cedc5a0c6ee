"""Network builders in torch and their ONNX exporters."""

if not __name__.startswith("cimc."):
    raise ImportError(f"import cimc.{__name__}, not {__name__}: one module, one name")
