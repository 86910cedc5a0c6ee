"""Live torch modules on the arrays of a machine: ``cimc.analog.convert`` (docs/streaming.md)."""

from cimc.analog.convert import convert, run_of

__all__ = ["convert", "run_of"]
