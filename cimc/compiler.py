"""From a model to a program: import, passes, program, in memory. ``cimc.api`` writes and reads artifacts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, i64
from xdsl.utils.exceptions import VerifyException

from cimc.backends.protocol import Backend
from cimc.backends.registry import load_backend_file, resolve_backend
from cimc.backends.schema import Architecture
from cimc.calibration import Samples, collect_ranges, load_samples, random_samples
from cimc.converter_codes import put_converter_codes
from cimc.diagnostics import CimError, DoesNotFitError, UnsupportedError, UsageError
from cimc.dialects.context import CimContext
from cimc.dialects.graph import INPUTS, NAMED, ProductOperation, main_function, main_names
from cimc.dialects.graph_types import shape_of
from cimc.dialects.locations import short_name
from cimc.dialects.weights import WeightStore
from cimc.driver import STORE, Driver, Dumps, PassResult, ResumePoint, parse_module
from cimc.macs import total_macs
from cimc.mapping_options import MappingOptions, load_mapping
from cimc.passes.graph.rebind_batch import RebindBatch, is_batch_parallel
from cimc.passes.lower.link import Linked
from cimc.passes.lower.lower_bodies import LowerBodies
from cimc.passes.quantise.activations import QuantiseActivations
from cimc.passes.quantise.ranges import put_ranges
from cimc.passes.schedule.assign_copies import AssignCopiesPass
from cimc.passes.schedule.segment_stages import SegmentStagesPass
from cimc.passes.schedule.spread_rows import SpreadRowsPass
from cimc.pipeline import PipelineStep, pipeline
from cimc.runtime.program import Program

if TYPE_CHECKING:
    from onnx import ModelProto

    from cimc.runtime.cycle.stagger import Staggered

Array = npt.NDArray[Any]

FEWER_CROSSBARS = (0.75, 0.5, 0.25, 0.0)
"""Shares of the chip's crossbars a scheduler gets in turn after a placement that ran out of local memory."""

BATCH, MACS = "cim.batch", "cim.total_macs"
"""Attributes of ``@main``: frames of one call of the model (0: the batch is not separable), products per frame."""


@dataclass(frozen=True)
class CompileOptions:
    """What a compile was asked for; everything that can change its result."""

    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    mapping: MappingOptions = field(default_factory=MappingOptions)
    calibration: str | Path | Mapping[str, Array] | None = None
    stop_after: str | None = None
    require_arrays: bool = False

    def record(self) -> dict[str, Any]:
        """The options as plain JSON for the manifest; no path."""
        return {
            "shapes": {name: list(shape) for name, shape in sorted(self.shapes.items())},
            "mapping": self.mapping.model_dump(mode="json"),
            "calibrated": self.calibration is not None,
        }


@dataclass(frozen=True)
class Compiled:
    """What a compile made: a module per level, the store they name, and the program if it got that far."""

    ctx: CimContext
    modules: Mapping[str, ModuleOp]
    linked: Linked | None
    model_sha256: str
    staggered: Staggered | None = None
    """What turns of blocks of reads bring, where the mapping asks for them."""

    @property
    def store(self) -> WeightStore:
        """The arrays all modules name."""
        return self.ctx.store


def choose_backend(
    arch: str | Path | Architecture, backend: str | Path | None
) -> tuple[Backend | None, Architecture]:
    """The backend and the machine: ``arch`` is a name, a YAML file or an architecture, ``backend`` a module file."""
    if backend is not None:
        chosen = load_backend_file(Path(backend))
        return chosen, chosen.architecture()
    if isinstance(arch, Architecture):
        return None, arch
    chosen = resolve_backend(str(arch))
    return chosen, chosen.architecture()


def read_mapping(mapping: str | Path | MappingOptions | None) -> MappingOptions:
    """Mapping options from a file, as given, or the defaults."""
    if mapping is None:
        return MappingOptions()
    return mapping if isinstance(mapping, MappingOptions) else load_mapping(mapping)


def build(
    model: str | Path | ModelProto,
    arch: Architecture,
    backend: Backend | None,
    options: CompileOptions,
    *,
    dumps: Dumps | None = None,
    resume: bool = False,
    on_time: Callable[[str, float], None] | None = None,
    after_pass: Callable[[PassResult], None] | None = None,
) -> Compiled:
    """Run the whole pipeline. Raises ``CimError`` for anything the user can act on."""
    if options.mapping.network is not None:
        arch = arch.with_network(options.mapping.network)
    legality = backend.legal_on_arrays if backend is not None else None
    ctx = CimContext(store=WeightStore(), arch=arch, mapping=options.mapping, legality=legality)
    driver = Driver(ctx, dumps, on_time, after_pass)
    steps = pipeline(options.mapping, backend.extra_passes() if backend is not None else ())
    try:
        if resume:
            module, steps, level = _resume(Path(str(model)), driver, steps)
        else:
            module, level = _import(model, driver, options), "imported"
        _run_stages(module, steps, level, driver, options)
        linked = _lower(module, driver) if "mapped" in driver.kept and not options.stop_after else None
        staggered = _stagger(linked.program, options.mapping) if linked is not None else None
    except CimError:
        raise
    except Exception as error:  # dumps are edited by hand, and verifiers do not know every rule of the passes
        if not resume:
            raise
        said = (str(error).strip().splitlines() or [""])[0]
        raise UsageError(
            f"this dump does not compile any further: {type(error).__name__}: {said}; undo what was edited in it, "
            "or report it if nothing was",
            where=str(model),
        ) from error
    finally:
        if dumps is not None and dumps.count:
            dumps.write_store(ctx.store)
    if linked is not None and staggered is not None:
        linked = replace(linked, program=staggered.program)
    return Compiled(ctx, driver.kept, linked, _digest(driver), staggered)


def _import(model: str | Path | ModelProto, driver: Driver, options: CompileOptions) -> ModuleOp:
    """The imported module of one frame, with the batch it was made for."""
    from cimc.frontend.onnx.importer import import_onnx

    store = driver.ctx.store
    module = import_onnx(model, shapes=options.shapes or None, store=store)
    main = main_function(module)
    batch = shape_of(main.args[0])[0] if main.args and shape_of(main.args[0]) else 1
    separable = is_batch_parallel(module)
    if separable and batch != 1:
        RebindBatch(1).apply(driver.ctx, module)
    main.attributes[BATCH] = IntegerAttr(batch if separable else 0, i64)
    main.attributes[MACS] = IntegerAttr(total_macs(module, store), i64)
    options.mapping.check_matches([short_name(op.location) for op in module.walk() if isinstance(op, NAMED)])
    if driver.dumps is not None:
        driver.dumps.write(module, "imported", "import")
    driver.kept["imported"] = module.clone()
    driver.show("import", "import", "imported", module)
    return module


def _resume(
    path: Path, driver: Driver, steps: Sequence[PipelineStep]
) -> tuple[ModuleOp, Sequence[PipelineStep], str]:
    """Module, passes left and level of a dump."""
    point = ResumePoint.of(path)
    if not path.is_file():
        raise UsageError("no such dump", where=str(path))
    store = WeightStore.load(path.parent / STORE)
    for key in store.keys():
        driver.ctx.store.put(key, store.array(key))
    module = parse_module(path.read_text(), driver.ctx, path.name)
    try:
        module.verify()
    except VerifyException as error:
        raise UsageError(f"the IR breaks a rule of its operations: {error}", where=path.name) from error
    driver.kept[point.level] = module.clone()
    return module, point.remaining(steps), point.level


def _run_stages(
    module: ModuleOp, steps: Sequence[PipelineStep], level: str, driver: Driver, options: CompileOptions
) -> None:
    """Stages in turn; calibration data enters before ``quantise`` and before ``schedule``."""
    loaded: list[Samples] = []

    def samples(like: ModuleOp) -> Samples:
        if not loaded:
            loaded.append(_samples(like, options))
        return loaded[0]

    for stage in ("graph", "quantise", "schedule", "place"):
        part = [s for s in steps if s.stage == stage]
        if not part or options.stop_after == level:
            continue
        if stage == "quantise" and level == "graph":
            _put_ranges(module, driver.ctx.store, part, options, samples)
        if stage == "schedule" and level == "quantised":
            _check_arrays(module, options)
            like = driver.kept.get("graph", module)
            put_converter_codes(module, driver.ctx, partial(samples, like))
        level = (
            _place(module, steps, part, level, driver)
            if stage == "place"
            else driver.run(module, part, level)
        )


def _place(
    module: ModuleOp, steps: Sequence[PipelineStep], part: Sequence[PipelineStep], level: str, driver: Driver
) -> str:
    """Place; where rings turn out to need more memory than cores have, schedule with fewer crossbars and try again.

    Copies named by the user are never changed. Raises ``DoesNotFitError`` when not even one copy each is placed.
    """
    again = [s for s in steps if s.stage == "schedule"]
    first = next((i for i, s in enumerate(again) if isinstance(s.run, AssignCopiesPass)), None)
    cut = next((i for i, s in enumerate(again) if isinstance(s.run, SpreadRowsPass)), first)
    mapping: MappingOptions | None = driver.ctx.mapping
    if first is None or mapping is None or mapping.chosen_scheduler == "none":
        return driver.run(module, part, level)
    for share in FEWER_CROSSBARS:
        try:
            return driver.run(module, part, level)
        except DoesNotFitError:
            smaller = PipelineStep("schedule", AssignCopiesPass(share))
            level = driver.run(
                module, [*again[cut:first], smaller, *map(_none_stays, again[first + 1 :])], level
            )
    return driver.run(module, part, level)


def _none_stays(step: PipelineStep) -> PipelineStep:
    """The step as it is after a placement that failed: all weights take turns."""
    return (
        replace(step, run=SegmentStagesPass(stay=False)) if isinstance(step.run, SegmentStagesPass) else step
    )


def _put_ranges(
    module: ModuleOp,
    store: WeightStore,
    steps: Sequence[PipelineStep],
    options: CompileOptions,
    samples: Callable[[ModuleOp], Samples],
) -> None:
    """Calibrate the tensors whose range a pass wants; a model that brings all its codes needs no data."""
    wanted = [
        name
        for step in steps
        if isinstance(step.run, QuantiseActivations)
        for name in step.run.wanted_ranges(store, module)
    ]
    if not wanted:
        return
    percentile = options.mapping.calibration.percentile or 100.0
    found = collect_ranges(module, store, samples(module), percentile=percentile, tensors=wanted)
    put_ranges(store, found)


def _samples(module: ModuleOp, options: CompileOptions) -> Samples:
    if options.calibration is None:
        return random_samples(module)
    return load_samples(options.calibration, module)


def _check_arrays(module: ModuleOp, options: CompileOptions) -> None:
    """A model without any operator for the arrays compiles with a warning, or not at all when asked so."""
    if any(isinstance(op, ProductOperation) for op in module.walk()):
        return
    message = (
        "no operator of the model runs on the arrays: it has no Conv, Gemm or MatMul with constant weights"
    )
    if options.require_arrays:
        raise UnsupportedError(f"{message} (--require-arrays)")
    import warnings

    warnings.warn(message, stacklevel=2)


def _lower(module: ModuleOp, driver: Driver) -> Linked:
    """Bodies and program of a placed module."""
    linked = LowerBodies().apply(
        driver.ctx, module, frames=max(1, _number(module, BATCH)), total_macs=_number(module, MACS)
    )
    driver.finish(linked.module)
    return linked


def _stagger(program: Program, mapping: MappingOptions) -> Staggered | None:
    """The program with blocks of reads that take turns, if they shall."""
    if not mapping.staggers:
        return None
    from cimc.runtime.cycle.stagger import stagger, stagger_to  # loads numba

    if mapping.stagger_limit_mw is not None:
        return stagger_to(program, mapping.stagger_limit_mw, images=mapping.stagger_images)
    return stagger(program, slack=mapping.stagger_slack, images=mapping.stagger_images)


def _number(module: ModuleOp, attribute: str) -> int:
    found = main_function(module).attributes.get(attribute)
    return found.value.data if isinstance(found, IntegerAttr) else 0


def _digest(driver: Driver) -> str:
    """A hash of the imported model: its operators and the contents of its weights, not of any file."""
    from cimc.driver import print_module

    first = next(iter(driver.kept.values()))
    digest = hashlib.sha256(print_module(first).encode())
    for name in main_names(first, INPUTS):
        digest.update(name.encode())
    for key in sorted(_referenced(first)):
        digest.update(driver.ctx.store.sha256(key).encode())
    return digest.hexdigest()


def _referenced(module: ModuleOp) -> set[str]:
    """Keys of the store that a module names."""
    from cimc.dialects.weights import WeightRefAttr

    return {
        attr.key.data
        for op in module.walk()
        for attr in (*op.properties.values(), *op.attributes.values())
        if isinstance(attr, WeightRefAttr)
    }
