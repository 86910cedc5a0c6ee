"""The machine of the mapping tests: 4 cores of 4 crossbars of 16 x 16 one-byte-per-weight cells, wordline mode."""

from __future__ import annotations

from typing import Any

from cimc.backends.registry import resolve_backend
from cimc.backends.schema import Architecture

_PLACES = {
    "cores": "chip",
    "allow_writes": "chip",
    "global_buffer_bytes": "chip",
    "crossbars": "core",
    "contexts": "core",
    "local_buffer_bytes": "core",
}


def small_machine(**changes: Any) -> Architecture:
    """``isaac`` with small arrays: a row holds 4 weights of 8 bits; ``changes`` by key of chip, core or crossbar."""
    fields: dict[str, Any] = resolve_backend("isaac").architecture().model_dump(mode="json")
    small = {
        "cores": 4,
        "crossbars": 4,
        "contexts": 8,
        "rows": 16,
        "columns": 16,
        "adcs": 1,
        "allow_writes": False,
    }
    for key, value in (small | changes).items():
        fields[_PLACES.get(key, "crossbar")][key] = bool(value) if key == "allow_writes" else value
    fields |= {"name": "small"}
    fields["network"] |= {"columns": 8, "rows": -(-fields["chip"]["cores"] // 8)}
    if fields["crossbar"]["parallel_rows"] >= fields["crossbar"]["rows"]:
        fields["mode"] = "crossbar"
    return Architecture.model_validate(fields)
