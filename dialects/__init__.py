"""The IR dialects: `graph`, `cim`, `mem`, `isa`; what is legal at each level."""

if not __name__.startswith("cimc."):
    raise ImportError(f"import cimc.{__name__}, not {__name__}: one module, one name")
