"""Compiler passes, one file each, in sub-folders named for the stage."""

if not __name__.startswith("cimc."):
    raise ImportError(f"import cimc.{__name__}, not {__name__}: one module, one name")
