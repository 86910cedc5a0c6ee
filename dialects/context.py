"""What a pass may know besides the module: weights, machine, mapping options, the backend's rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from xdsl.context import Context
from xdsl.dialects.builtin import Builtin
from xdsl.dialects.func import Func
from xdsl.ir import Dialect, Operation

from cimc.dialects.graph import Graph
from cimc.dialects.weights import WeightStore


def _lazily(module: str, attribute: str) -> Callable[[], Dialect]:
    return lambda: getattr(import_module(module), attribute)


@dataclass
class CimContext(Context):
    """xDSL's context with the hardware on it, so that a pass needs no globals.

    ``builtin``, ``func`` and ``graph`` are loaded; ``cim``, ``mem`` and ``isa`` when first parsed.
    """

    store: WeightStore = field(default_factory=WeightStore)
    arch: Any | None = None
    """The resolved architecture, or ``None`` for passes that need no machine."""
    mapping: Any | None = None
    """The user's mapping options."""
    legality: Callable[[Operation], str | None] | None = None
    """The backend's rule: why its arrays cannot compute an operation of the ``graph`` dialect, or ``None``."""

    def __post_init__(self) -> None:
        if self._loaded_dialects:
            return
        for dialect in (Builtin, Func, Graph):
            self.load_dialect(dialect)
        for name in ("cim", "mem", "isa"):
            self.register_dialect(name, _lazily(f"cimc.dialects.{name}", name.capitalize()))

    def clone(self) -> CimContext:
        """A context with the same dialects, store, machine and options."""
        return CimContext(
            self.allow_unregistered,
            self._loaded_dialects.copy(),
            self._loaded_ops.copy(),
            self._loaded_attrs.copy(),
            self._loaded_types.copy(),
            self._registered_dialects.copy(),
            self.store,
            self.arch,
            self.mapping,
            self.legality,
        )
