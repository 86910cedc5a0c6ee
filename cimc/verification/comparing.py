"""Comparing tensors by name, in the order of the program, until the first operation that diverges is known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from cimc.dialects.graph import main_function, tensor_names
from cimc.dialects.locations import describe, short_name
from cimc.verification.report import Check, Verdict

Array = npt.NDArray[Any]

Values = Mapping[str, Sequence[Array]]
"""By tensor name one array a frame."""

FLOAT_TOLERANCE = 1e-4
"""Level 1 and onnxruntime add in different orders: largest difference over the tensor's largest magnitude."""


@dataclass(frozen=True)
class Place:
    """An operation as messages name it."""

    operation: str
    location: str


@dataclass(frozen=True)
class Rule:
    """How two arrays are compared: an error in some unit, and the largest that passes."""

    says: str
    error: Callable[[Array, Array], float]
    limit: float
    passes: Verdict


def exact_error(found: Array, wanted: Array) -> float:
    """Largest difference; infinite where element types or NaN do not agree."""
    if found.dtype.kind != wanted.dtype.kind:
        return float("inf")
    if np.array_equal(found, wanted, equal_nan=found.dtype.kind == "f"):
        return 0.0
    with np.errstate(invalid="ignore"):
        worst = float(np.abs(found.astype(np.float64) - wanted.astype(np.float64)).max())
    return worst if worst > 0 else float("inf")


def scaled_error(found: Array, wanted: Array) -> float:
    """Largest difference over the largest magnitude of ``wanted``; infinities and NaN must agree."""
    if not found.size:
        return 0.0
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    worst = float(np.abs(a[finite] - b[finite]).max())
    return worst / max(float(np.abs(b[finite]).max()), 1e-30) if worst else 0.0


EXACT = Rule("equal", exact_error, 0.0, "equal")
CLOSE = Rule(f"within {FLOAT_TOLERANCE:g} of the largest magnitude", scaled_error, FLOAT_TOLERANCE, "within")


def place_of(op: Operation, fallback: str = "") -> Place:
    """Name and location of ``op``; its first tensor, or ``fallback``, where it has no name."""
    stem = short_name(op.location) or (tensor_names(op) or (fallback or op.name,))[0]
    return Place(stem, describe(op.location) or stem)


def graph_places(module: ModuleOp) -> dict[str, Place]:
    """The operation that makes each named tensor of levels 1 and 2, in order."""
    places: dict[str, Place] = {}
    for op in main_function(module).body.block.ops:
        for name in tensor_names(op):
            places.setdefault(name, place_of(op))
    return places


def same_shape(found: Array, wanted: Array) -> bool:
    """Whether two arrays are the same tensor up to leading and trailing extents of 1."""
    return found.shape == wanted.shape or [e for e in found.shape if e != 1] == [
        e for e in wanted.shape if e != 1
    ]


def _error(found: Array, wanted: Array, rule: Rule) -> float:
    return rule.error(found, wanted.reshape(found.shape)) if same_shape(found, wanted) else float("inf")


def compare(
    after: str,
    level: str,
    against: str,
    places: Mapping[str, Place],
    found: Values,
    wanted: Values,
    rule: Rule,
) -> Check:
    """Compare every tensor that both sides have, in the order of ``places``; report the first that diverges."""
    worst, worst_tensor, count = 0.0, "", 0
    first: tuple[str, float] | None = None
    for name in places:
        if name not in found or name not in wanted:
            continue
        count += 1
        pairs = zip(found[name], wanted[name], strict=True)
        error = max((_error(a, b, rule) for a, b in pairs), default=0.0)
        if error > worst:
            worst, worst_tensor = error, name
        if error > rule.limit and first is None:
            first = name, error
    if first is None:
        return Check(after, level, against, count, worst, worst_tensor, rule.passes)
    name, error = first
    return Check(
        after,
        level,
        against,
        count,
        worst,
        worst_tensor,
        "differs",
        places[name].operation,
        places[name].location,
        f"tensor '{name}' differs by {error:.4g} from {against}; it must be {rule.says}",
    )


def failed(after: str, level: str, against: str, place: Place, message: str) -> Check:
    """A check that could not be carried out, or found a broken rule."""
    return Check(
        after, level, against, 0, float("inf"), "", "fails", place.operation, place.location, message
    )


def place_in_message(message: str, operations: Iterable[Operation], labels: Iterable[str] = ()) -> Place:
    """The operation an error message begins with or quotes; a place without a name if there is none."""
    best = Place("", "")
    for op in operations:
        where = describe(op.location)
        if where and message.startswith(f"{where}:") and len(where) > len(best.location):
            best = place_of(op)
    if best.operation:
        return best
    quoted = [label for label in labels if f"'{label}'" in message]
    return Place(quoted[0], quoted[0]) if quoted else best
