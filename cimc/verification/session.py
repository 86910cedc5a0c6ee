"""Compiles a model and compares what every pass leaves with what it must still mean (docs/verification.md)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
from xdsl.dialects.builtin import IntegerAttr, ModuleOp

from cimc.backends.schema import Architecture, NetworkKind
from cimc.compiler import BATCH, MACS, Compiled, CompileOptions, build, choose_backend, read_mapping
from cimc.diagnostics import CimError, UsageError
from cimc.dialects.context import CimContext
from cimc.dialects.graph import OUTPUTS, main_function, main_names
from cimc.dialects.mem import HostCallOp
from cimc.dialects.weights import WeightStore
from cimc.driver import PassResult
from cimc.frontend.onnx.importer import import_onnx
from cimc.interpreters.graph import run_graph
from cimc.interpreters.host import HostRunner
from cimc.interpreters.quantised import execute_quantised
from cimc.mapping_options import MappingOptions
from cimc.runtime.program import Program
from cimc.runtime.verifier import Finding, verify_program
from cimc.verification.comparing import (
    CLOSE,
    EXACT,
    Place,
    compare,
    failed,
    graph_places,
    place_in_message,
    place_of,
)
from cimc.verification.frames import Frames, default_limit, frames_of, structured_inputs
from cimc.verification.level_2 import (
    agreement,
    digital_check,
    is_float,
    lockstep_check,
    oracle_check,
    real_holders,
    real_values,
    same_elements,
    tensor_error,
)
from cimc.verification.lockstep import Held, Run, run_in_lockstep
from cimc.verification.lowering_checks import (
    MappedState,
    distance,
    mapped_failure,
    mapped_places,
    needless_loss,
    program_check,
    run_mapped,
    static_check,
)
from cimc.verification.onnx_tensors import onnx_tensors
from cimc.verification.quantise_checks import Layers, float_layers, promise_of, range_warnings
from cimc.verification.report import Check, TensorError, VerifyReport
from cimc.verification.variation import variation_warnings

if TYPE_CHECKING:
    from onnx import ModelProto

Array = npt.NDArray[Any]

Tamper = Callable[[str, "ModuleOp | Program", CimContext], None]
"""Called with the name of each pass and what it left, before that is checked: tests plant faults here."""

LEVELS = ("graph", "quantised", "mapped", "program")


def verify(
    model: str | Path | ModelProto,
    arch: str | Path | Architecture,
    *,
    inputs: Mapping[str, Array] | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    calibration: str | Path | Mapping[str, Array] | None = None,
    mapping: str | Path | MappingOptions | None = None,
    backend: str | Path | None = None,
    network: NetworkKind | None = None,
    levels: Collection[str] = LEVELS,
    tamper: Tamper | None = None,
) -> VerifyReport:
    """Compile ``model`` for ``arch`` and check the result of every pass; stops at the first that fails.

    ``inputs``: arrays of one or more frames by input name, all of which are used; without them the first frames of
    ``calibration``, and without both seeded pictures, with a warning. ``levels``: which levels are checked.
    ``tamper``: see :data:`Tamper`. Raises ``CimError`` for a model, machine or data that cannot be compiled or
    run; what differs is in the report.
    """
    if unknown := sorted(set(levels) - set(LEVELS)):
        raise UsageError(f"no level {', '.join(unknown)}; there are {', '.join(LEVELS)}", where="verify")
    chosen, machine = choose_backend(arch, backend)
    options = read_mapping(mapping)
    if network is not None:
        options = options.model_copy(update={"network": network})
    bound = dict(shapes or {})
    data = calibration if calibration is not None else inputs
    if data is None:
        data = structured_inputs(import_onnx(model, shapes=bound or None, store=WeightStore()))
    session = _Session(model, machine, inputs, data, frozenset(levels), tamper)
    last = max(LEVELS.index(level) for level in levels) if levels else 0
    asked = CompileOptions(
        shapes=bound,
        mapping=options,
        calibration=data,
        stop_after=None if LEVELS[last] == "program" else LEVELS[last],
    )
    try:
        made = build(model, machine, chosen, asked, after_pass=session.watch)
        session.finish(made)
    except _Stop:
        pass
    return session.report()


def verify_static(program: Program, weights: Mapping[str, Array]) -> list[Finding]:
    """Everything that is wrong with a program and its weight image, found without data (docs/isa.md)."""
    return verify_program(program, weights=weights)


class _Stop(Exception):
    """The first failing check ends the compile: what follows would run on something broken."""


@dataclass
class _Session:
    """What is known at each point of the compile: the reference values that the next pass must keep."""

    model: Any
    machine: Architecture
    inputs: Mapping[str, Array] | None
    data: str | Path | Mapping[str, Array]
    levels: frozenset[str]
    tamper: Tamper | None
    checks: list[Check] = field(default_factory=list[Check])
    frames: Frames | None = None
    total_macs: int = 0
    batch: int = 1
    hosts: HostRunner | None = None
    onnx: dict[str, list[Array]] = field(default_factory=dict[str, list[Array]])
    floats: dict[str, list[Array]] = field(default_factory=dict[str, list[Array]])
    held: list[Mapping[Held, Array]] = field(default_factory=list[Mapping[Held, Array]])
    layers: Layers = field(default_factory=dict[str, tuple[Array, "Array | None"]])
    integers: dict[str, list[Array]] = field(default_factory=dict[str, list[Array]])
    reals: dict[str, list[list[Array]]] = field(default_factory=dict[str, list[list[Array]]])
    """Real values held under a tensor's name at level 2, before and after its codes; by frame."""
    state: MappedState | None = None
    calibrated: bool = False
    errors: tuple[TensorError, ...] = ()
    agreement: float | None = None
    warnings: list[str] = field(default_factory=list[str])
    array_macs: int = 0
    host_operators: tuple[str, ...] = ()

    def watch(self, result: PassResult) -> None:
        """Check what a pass left."""
        if self.tamper is not None:
            self.tamper(result.name, result.module, result.ctx)
        if result.stage == "import":
            self._begin(result)
        if result.stage in ("import", "graph"):
            self._after_graph(result)
        elif result.stage == "quantise":
            self._after_quantise(result)
        else:
            self._after_mapping(result)

    def _begin(self, result: PassResult) -> None:
        main = main_function(result.module)
        macs, batch = main.attributes[MACS], main.attributes[BATCH]
        assert isinstance(macs, IntegerAttr)
        assert isinstance(batch, IntegerAttr)
        self.total_macs, self.batch = macs.value.data, max(1, batch.value.data)
        limit = None if self.inputs is not None else default_limit(self.total_macs)
        source = self.inputs if self.inputs is not None else self.data
        self.frames = frames_of(source, result.module, limit)
        self.hosts = HostRunner(result.ctx.store)

    @property
    def _feeds(self) -> Sequence[Mapping[str, Array]]:
        assert self.frames is not None
        return self.frames.feeds

    @property
    def _host(self) -> HostRunner:
        assert self.hosts is not None
        return self.hosts

    def _add(self, check: Check) -> None:
        self.checks.append(check)
        if not check.ok:
            raise _Stop

    def _after_graph(self, result: PassResult) -> None:
        """Level 1 against onnxruntime on every tensor both have."""
        checked = "graph" in self.levels
        if not checked and result.level != "graph":
            return
        against = "onnxruntime"
        places = graph_places(result.module)
        runs: list[dict[str, Array]] = []
        for feed in self._feeds:
            try:
                runs.append(
                    run_graph(result.module, result.ctx.store, feed, taps=tuple(places), host=self._host)
                )
            except (CimError, ValueError, RuntimeError, KeyError) as error:
                self._add(self._graph_failure(result, against, error))
        self.floats = {name: [run[name] for run in runs] for name in runs[0]} if runs else {}
        if result.level == "graph":
            self.layers = float_layers(result.module, result.ctx.store)
            self.held = [
                {(name, "f32"): array for name, array in {**feed, **run}.items()}
                for feed, run in zip(self._feeds, runs, strict=True)
            ]
        if not checked:
            return
        if not self.onnx:
            # Passes only remove names, so the tensors known after the import are all that will be asked for.
            wanted = {*places, *main_names(result.module, OUTPUTS)}
            self.onnx = onnx_tensors(self.model, self._feeds, self.batch, wanted)
        level = "graph" if result.level == "graph" else "imported"
        self._add(compare(result.name, level, against, places, self.floats, self.onnx, CLOSE))

    def _graph_failure(self, result: PassResult, against: str, error: Exception) -> Check:
        place = place_in_message(str(error), result.module.walk())
        return failed(result.name, result.level, against, place, f"{type(error).__name__}: {error}")

    def _after_quantise(self, result: PassResult) -> None:
        """Each operation in lock step with the program before the pass; at the end level 2 as a whole."""
        promise = promise_of(result.name, self.layers, result.ctx.store)
        try:
            runs = [
                run_in_lockstep(
                    result.module,
                    result.ctx.store,
                    feed,
                    held,
                    promise.judge,
                    self._host,
                    through_conversions=promise.through_conversions,
                )
                for feed, held in zip(self._feeds, self.held, strict=True)
            ]
        except (CimError, ValueError, RuntimeError, KeyError) as error:
            self._add(self._graph_failure(result, promise.says, error))
            return
        if result.name == "quantise-activations":
            self.warnings += range_warnings(result.module, runs, result.ctx.store)
        if "quantised" in self.levels:
            self._add(lockstep_check(result, promise.says, promise.exact, runs))
        self.held = [run.values for run in runs]
        self.layers = {**self.layers, **float_layers(result.module, result.ctx.store)}
        if result.level == "quantised":
            self._level_2(result, runs)

    def _level_2(self, result: PassResult, runs: Sequence[Run]) -> None:
        """Integers of level 2 by name, products against their oracles, distance to float."""
        places = graph_places(result.module)
        found = [
            execute_quantised(result.module, result.ctx.store, feed, taps=tuple(places), host=self._host)
            for feed in self._feeds
        ]
        self.integers = {name: [run.taps[name] for run in found] for name in places}
        self.reals = real_holders(result.module, runs)
        if "quantised" in self.levels:
            self._add(oracle_check(result, runs))
            self._add(digital_check(result, runs))
        outputs = main_names(result.module, OUTPUTS)
        reals = real_values(result.module, self.integers)
        reals |= {name: [run.outputs[name] for run in found] for name in outputs}
        self.errors = tuple(
            tensor_error(name, reals[name], self.floats[name])
            for name in dict.fromkeys([*places, *outputs])
            if name in self.floats and name in reals and is_float(self.floats[name])
        )
        delivered = [{**run.outputs, **run.integer_outputs} for run in found]
        self.agreement = agreement(reals[outputs[0]], self.floats[outputs[0]]) if outputs else None
        for name in outputs:
            self.warnings += variation_warnings(name, [run[name] for run in delivered])

    def _after_mapping(self, result: PassResult) -> None:
        """Level 3 against level 2, or, where converters lose, against level 3 before the pass."""
        if result.name == "calibrate-converters":
            self.calibrated = True
        if not self.levels & {"mapped", "program"}:
            return
        if "mapped" not in self.levels and result.stage != "place":
            return
        against = "level 2, with ideal converters"
        places = mapped_places(result.module)
        try:
            if not self.calibrated:
                ideal = self._mapped(result, ideal=True)
                self._add(self._against_level_2(result.name, against, places, ideal))
                return
            state = self._mapped(result, ideal=False)
            if state.lossless:
                against = "level 2"
                self._add(self._against_level_2(result.name, against, places, state))
            elif state.needless:
                self._add(needless_loss(result.name, state.needless[0]))
            elif self.state is None:
                ideal = self._mapped(result, ideal=True)
                self._add(self._against_level_2(result.name, against, places, ideal))
                self._add(distance(result.name, "level 2", places, state.values, self._level_2_of(state)))
            else:
                against = "the mapped level before the pass"
                self._add(
                    compare(result.name, "mapped", against, places, state.values, self.state.values, EXACT)
                )
        except CimError as error:
            self._add(mapped_failure(result.name, against, result.module, error))
            return
        self.state = state

    def _against_level_2(
        self, after: str, against: str, places: Mapping[str, Place], state: MappedState
    ) -> Check:
        return compare(after, "mapped", against, places, state.values, self._level_2_of(state), EXACT)

    def _level_2_of(self, state: MappedState) -> dict[str, list[Array]]:
        """Level 2's tensors in the form the mapped level holds them: codes, or the real values of that name."""
        wanted: dict[str, list[Array]] = {}
        for name, found in state.values.items():
            if name not in self.integers:
                continue
            wanted[name] = self.integers[name]
            if found[0].dtype.kind == "f" and wanted[name][0].dtype.kind in "iu":
                holders = self.reals.get(name, [])
                equal = [h for h in holders if all(map(same_elements, h, found))]
                wanted[name] = (equal or holders or [wanted[name]])[0]
        return wanted

    def _mapped(self, result: PassResult, *, ideal: bool) -> MappedState:
        assert self.frames is not None
        return run_mapped(
            result.module, result.ctx.store, self.frames.streamed(), self.machine, self._host, ideal=ideal
        )

    def finish(self, made: Compiled) -> None:
        """The program: the verifier's rules, then the stream against level 3."""
        if "program" not in self.levels or made.linked is None:
            return
        program = made.linked.program
        if self.tamper is not None:
            self.tamper("lower-bodies", program, made.ctx)
        weights = {key: made.store.array(key) for key in program.weights}
        self._add(static_check(program, weights))
        assert self.frames is not None
        assert self.state is not None
        places = mapped_places(made.modules["mapped"])
        check, run = program_check(
            made.linked, weights, made.store, self.frames.streamed(), places, self.state
        )
        calls = [op for op in made.modules["mapped"].walk() if isinstance(op, HostCallOp)]
        self.host_operators = tuple(f"{place_of(op).operation} ({op.op_type.data})" for op in calls)
        self.array_macs = 0 if run is None else run.array_macs
        self._add(check)

    def report(self) -> VerifyReport:
        """What was found."""
        count = len(self.frames) if self.frames is not None else 0
        return VerifyReport(
            machine=self.machine.name,
            frames=count,
            checks=tuple(self.checks),
            quantisation=self.errors,
            top1_agreement=self.agreement,
            array_macs=self.array_macs,
            total_macs=self.total_macs * count,
            host_operators=self.host_operators,
            warnings=tuple(self.warnings),
        )
