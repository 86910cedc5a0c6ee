"""The command line: a thin skin over the Python API. It parses, prints, and turns errors into exit codes."""

from cimc.cli.entry import main

__all__ = ["main"]
