"""What two artifacts differ in: options, sizes, decisions per layer, cycles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cimc.performance import performance

if TYPE_CHECKING:
    from cimc.api import Artifact

SIZES = ("instruction_rows", "contexts", "ir_operations", "array_macs", "total_macs")
DECISIONS = ("copies", "contexts", "crossbars", "weights", "weight_bits", "rows", "activations")
"""What is compared of a layer."""


@dataclass(frozen=True)
class Change:
    """One value that differs; ``None`` where an artifact has no such value."""

    part: str
    """``options``, ``sizes``, ``timing``, or ``layer <name>``."""
    name: str
    before: Any
    after: Any


def difference(before: Artifact, after: Artifact, *, images: int = 8) -> list[Change]:
    """All changes from one artifact to another; empty when they are the same in all that is compared.

    ``images``: frames of the timing; 0 leaves it out.
    """
    a, b = before.report, after.report
    changes = [
        *_changed(
            "options", _flat(before.manifest.get("options", {})), _flat(after.manifest.get("options", {}))
        ),
        *_changed("options", {"machine": a["machine"]}, {"machine": b["machine"]}),
        *_changed("options", _hashes(before), _hashes(after)),
        *_changed("sizes", _sizes(a), _sizes(b)),
    ]
    layers_a, layers_b = _layers(a), _layers(b)
    for name in dict.fromkeys([*layers_a, *layers_b]):
        changes += _changed(f"layer {name}", layers_a.get(name, {}), layers_b.get(name, {}))
    if images:
        timings = [performance(artifact, images).to_dict() for artifact in (before, after)]
        changes += _changed("timing", timings[0], timings[1])
    return changes


def _hashes(artifact: Artifact) -> dict[str, Any]:
    return {key: value for key, value in artifact.manifest.items() if key in ("model_sha256", "arch_sha256")}


def _sizes(report: Mapping[str, Any]) -> dict[str, Any]:
    crossbars = {f"crossbars.{key}": value for key, value in report["crossbars"].items()}
    phases = {"phases": report["utilisation"]["phases"]}
    return {key: report[key] for key in SIZES} | crossbars | phases


def _layers(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {s["name"]: _flat({key: s[key] for key in DECISIONS}) for s in report["stages"]}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, keys joined with dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _changed(part: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    for name in dict.fromkeys([*before, *after]):
        a, b = before.get(name), after.get(name)
        if a != b:
            yield Change(part, name, a, b)
