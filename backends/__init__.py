"""Machines: architecture schema, backend protocol, and one module plus YAML a machine."""

if not __name__.startswith("cimc."):
    raise ImportError(f"import cimc.{__name__}, not {__name__}: one module, one name")
