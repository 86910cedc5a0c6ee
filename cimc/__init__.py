"""``cimc``: compile neural networks for computing-in-memory accelerators, run and time the result.

The public names are loaded on first use, so that ``import cimc`` and ``cimc --help`` stay fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cimc.api import Artifact, RunResult, Timing, compile, load

__version__ = "0.1.0"

__all__ = ["Artifact", "RunResult", "Timing", "compile", "load"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'cimc' has no attribute {name!r}")
    return getattr(import_module("cimc.api"), name)
