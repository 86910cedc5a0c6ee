"""Machines with a part of their cores: the scheduler gives every core work, and a small network needs few of them."""

from __future__ import annotations

from cimc.backends.registry import resolve_backend
from cimc.backends.schema import Architecture


def with_fewer_cores(machine: str, rows: int = 6, columns: int = 8) -> Architecture:
    """The machine with a core for every node of a mesh of ``rows`` x ``columns``, instead of up to 1104: copies,
    placement and streams have all their cases, and compiling a small network takes a fraction of the time."""
    arch = resolve_backend(machine).architecture()
    return arch.model_copy(
        update={
            "chip": arch.chip.model_copy(update={"cores": rows * columns}),
            "network": arch.network.model_copy(update={"rows": rows, "columns": columns}),
        }
    )
