"""Levels below 2: the mapped module after each pass, and the program, against the integers of level 2."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import ModuleOp

from cimc.backends.schema import Architecture
from cimc.diagnostics import CimError
from cimc.dialects.graph import main_function
from cimc.dialects.graph_types import QuantType, quant_of
from cimc.dialects.weights import WeightStore
from cimc.execution import run_stream
from cimc.interpreters.host import HostRunner
from cimc.interpreters.mapped import MappedRun, execute_mapped, mapped_tensors
from cimc.interpreters.mapped_products import ExactCells
from cimc.passes.lower.link import Linked
from cimc.results import RunResult
from cimc.runtime.numerics.digital import dequantise
from cimc.runtime.program import Program
from cimc.runtime.verifier import verify_program
from cimc.verification.comparing import (
    EXACT,
    Place,
    Rule,
    Values,
    compare,
    failed,
    place_in_message,
    place_of,
)
from cimc.verification.report import Check

Array = npt.NDArray[Any]

_NODE = re.compile(r"of '(.+?)' on ")
"""How the functional engine names the node of a context."""


@dataclass(frozen=True)
class MappedState:
    """Level 3 after some pass: its tensors, and whether no converter of it loses information."""

    values: Values
    outputs: Mapping[str, Array]
    lossless: bool
    needless: tuple[str, ...] = ()
    """Stages that lose information although their converters need not."""
    codes: Mapping[str, QuantType] = field(default_factory=dict[str, QuantType])
    """What the codes of those tensors stand for that are held as codes."""

    def real(self, name: str, found: Array) -> list[Array]:
        """The values of tensor ``name``: real where ``found`` is and level 3 holds codes (rule 2)."""
        held = list(self.values[name])
        codes = self.codes.get(name)
        if codes is None or found.dtype.kind != "f" or held[0].dtype.kind == "f":
            return held
        return [dequantise(frame, codes.scale, codes.zero_point) for frame in held]


def mapped_places(module: ModuleOp) -> dict[str, Place]:
    """The operation that makes each named tensor of the mapped level, in order."""
    return {name: place_of(tensor.op, name) for name, tensor in mapped_tensors(module).items()}


def run_mapped(
    module: ModuleOp,
    store: WeightStore,
    inputs: Mapping[str, Array],
    arch: Architecture,
    host: HostRunner,
    *,
    ideal: bool,
) -> MappedState:
    """Every named tensor of the mapped level on all frames."""
    run = execute_mapped(
        module,
        store,
        inputs,
        taps=tuple(mapped_tensors(module)),
        host=host,
        arch=arch,
        arrays=ExactCells(ideal_converters=ideal),
    )
    values = {name: list(frames[:, None]) for name, frames in run.taps.items()}
    kinds = {name: quant_of(tensor.value) for name, tensor in mapped_tensors(module).items()}
    codes = {name: kind for name, kind in kinds.items() if kind is not None}
    return MappedState(values, _delivered(run), all(run.lossless.values()), run.needless, codes)


def _delivered(run: MappedRun | RunResult) -> dict[str, Array]:
    """Outputs as the program delivers them: codes where they are codes."""
    return {**run.outputs, **run.integer_outputs}


def distance(after: str, against: str, places: Mapping[str, Place], found: Values, wanted: Values) -> Check:
    """How far the tensors of a lossy machine are from level 2: a number, no verdict."""
    rule = Rule("any distance", _relative_error, float("inf"), "distance")
    return compare(after, "mapped", against, places, found, wanted, rule)


def _relative_error(found: Array, wanted: Array) -> float:
    """``|found - wanted| / |wanted - its mean|``: free of the zero point of codes."""
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    spread = float(np.linalg.norm(b - b.mean()))
    return float(np.linalg.norm(a - b)) / max(spread, 1e-30)


def mapped_failure(after: str, against: str, module: ModuleOp, error: CimError) -> Check:
    """The check of a mapped module that broke a rule or could not be computed."""
    message = str(error)
    labels = [name for name in mapped_places(module)]
    place = place_in_message(message, main_function(module).body.block.walk(), labels)
    return failed(after, "mapped", against, place, message)


def needless_loss(after: str, label: str) -> Check:
    """The check of a stage that was given steps it does not need."""
    message = "its steps lose information although its converters cover every sum at step 1"
    return failed(after, "mapped", "level 2", Place(label, label), message)


def static_check(program: Program, weights: Mapping[str, Array]) -> Check:
    """The program verifier's findings, the first as the diverging operation."""
    findings = verify_program(program, weights=weights)
    if not findings:
        return Check("lower-bodies", "program", "the rules of docs/isa.md", 0, 0.0, "", "equal")
    first = findings[0]
    more = f" (and {len(findings) - 1} more findings)" if len(findings) > 1 else ""
    place = Place(first.node, first.where)
    return failed("lower-bodies", "program", "the rules of docs/isa.md", place, f"{first}{more}")


def _streamed(
    linked: Linked, weights: Mapping[str, Array], store: WeightStore, inputs: Mapping[str, Array]
) -> RunResult:
    """All taps and outputs of the instruction stream, in as many calls as a program of several phases needs."""
    keys = dict(zip((host.model for host in linked.program.hosts), linked.host_models, strict=True))
    taps = [tap.name for tap in linked.program.taps]

    def model_of(name: str) -> bytes:
        return store.array(keys[name]).tobytes()

    return run_stream(linked.program, weights, inputs, taps, model_of, walk=False)


def program_check(
    linked: Linked,
    weights: Mapping[str, Array],
    store: WeightStore,
    inputs: Mapping[str, Array],
    places: Mapping[str, Place],
    state: MappedState,
) -> tuple[Check, RunResult | None]:
    """The instruction stream on all frames, every tap and output against level 3."""
    against = "the mapped level"
    try:
        run = _streamed(linked, weights, store, inputs)
    except CimError as error:
        node = _NODE.search(error.where)
        name = node[1] if node else ""
        return failed("lower-bodies", "program", against, Place(name, error.where or name), str(error)), None
    found: dict[str, list[Array]] = {name: list(frames[:, None]) for name, frames in run.taps.items()}
    # A concatenation that nothing holds as codes is only there as the real values its reader gets.
    held = {name: state.real(name, frames[0]) for name, frames in found.items() if name in state.values}
    taps = compare("lower-bodies", "program", against, places, found, held, EXACT)
    if not taps.ok:
        return taps, run
    delivered: dict[str, list[Array]] = {n: list(a[:, None]) for n, a in _delivered(run).items()}
    ends = {name: Place(name, name) for name in delivered}
    wanted: dict[str, list[Array]] = {n: list(a[:, None]) for n, a in state.outputs.items()}
    outputs = compare("lower-bodies", "program", against, ends, delivered, wanted, EXACT)
    if not outputs.ok:
        return outputs, run
    return _with_tensors(taps, outputs.tensors), run


def _with_tensors(check: Check, more: int) -> Check:
    from dataclasses import replace

    return replace(check, tensors=check.tensors + more)
