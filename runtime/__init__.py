"""Program format, numerics, and the engines that run a program (values and cycles)."""

if not __name__.startswith("cimc."):
    raise ImportError(f"import cimc.{__name__}, not {__name__}: one module, one name")
