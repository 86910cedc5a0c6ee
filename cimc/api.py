"""The Python interface: ``cimc.compile``, ``cimc.load`` and the artifact they return.

artifact = cimc.compile("model.onnx", "isaac", calibration="images.npz", output="build/")
result = artifact.run({"x": images})
timing = artifact.simulate()
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cimc.backends.schema import Architecture
from cimc.compiler import BATCH, Compiled, CompileOptions, build, choose_backend, read_mapping
from cimc.diagnostics import UsageError
from cimc.driver import Dumps, print_module
from cimc.mapping_options import MappingOptions
from cimc.report import build_report
from cimc.runtime.artifact_files import ArtifactFiles, ArtifactWriter, open_artifact
from cimc.runtime.cycle.timing import Timing
from cimc.runtime.program import Program
from cimc.runtime.program.files import save_program
from cimc.runtime.verifier import check_program

if TYPE_CHECKING:
    from onnx import ModelProto

Array = npt.NDArray[Any]

ENGINES = ("program", "mapped", "quantised", "graph")
"""What can execute an artifact: the instruction stream, and the interpreters of levels 3, 2 and 1."""

IR_STORE = "ir/store.safetensors"


@dataclass(frozen=True)
class RunResult:
    """What one run gave. Arrays have the batch as their first extent."""

    outputs: Mapping[str, Array]
    """Real values: float32, or the element type of an output that never was float."""
    integer_outputs: Mapping[str, Array]
    """Codes of the outputs that are codes; empty for engine ``graph``."""
    taps: Mapping[str, Array] = field(default_factory=dict[str, Array])
    """The tensors asked for: codes where the tensor is codes at that level."""
    array_macs: int = 0
    """Multiply-accumulates done by executed ``read_*`` (engine ``program`` only)."""
    total_macs: int = 0
    """Multiply-accumulates the model asks for in Conv, ConvTranspose, Gemm and MatMul by a constant."""
    executed_instructions: int = 0
    """Rows issued in the expanded loops without ``loop``, ``end``, ``halt``, ``wait`` (``program`` only)."""


def compile(
    model: str | Path | ModelProto,
    arch: str | Path | Architecture,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    calibration: str | Path | Mapping[str, Array] | None = None,
    mapping: str | Path | MappingOptions | None = None,
    output: str | Path | None = None,
    dump_ir: str | Path | None = None,
    stop_after: str | None = None,
    resume: bool = False,
    network: str | None = None,
    require_arrays: bool = False,
    backend: str | Path | None = None,
    timing: Callable[[str, float], None] | None = None,
) -> Artifact:
    """Compile an ONNX model for a machine.

    ``arch``: a backend's name, an architecture YAML file or a resolved architecture. ``shapes`` binds open
    dimensions. ``calibration``: an ``.npz``, a folder of ``.npy``, or arrays by input name (leading sample
    extent). ``mapping``: options or a mapping file. ``output``: folder to write the artifact to; without it the
    artifact stays in memory. ``dump_ir``: folder for numbered IR files. ``stop_after``: ``graph``,
    ``quantised`` or ``mapped``: stop there, no program. ``resume``: ``model`` is a dumped IR file.
    ``network``: ``mesh`` or ``bus``. ``require_arrays``: fail if nothing runs on the arrays. ``backend``: a Python file
    that holds a backend. ``timing`` is called with name and seconds of each pass.

    Raises ``CimError``: ``UnsupportedError`` (exit 1), ``UsageError`` (2), ``DoesNotFitError`` (3).
    """
    if stop_after is not None and stop_after not in ("graph", "quantised", "mapped"):
        raise UsageError(f"stop_after is graph, quantised or mapped, not '{stop_after}'")
    chosen, machine = choose_backend(arch, backend)
    options = read_mapping(mapping)
    if network is not None:
        options = options.model_copy(update={"network": network})
    request = CompileOptions(
        shapes={name: tuple(shape) for name, shape in (shapes or {}).items()},
        mapping=options,
        calibration=calibration,
        stop_after=stop_after,
        require_arrays=require_arrays,
    )
    dumps = Dumps(Path(dump_ir)) if dump_ir is not None else None
    if output is None or stop_after is not None:
        made = build(model, machine, chosen, request, dumps=dumps, resume=resume, on_time=timing)
        return (
            Artifact(_Memory(made, request)) if made.linked is not None else Artifact(_Stopped(made, request))
        )
    with ArtifactWriter(Path(output)) as writer:
        made = build(model, machine, chosen, request, dumps=dumps, resume=resume, on_time=timing)
        memory = _Memory(made, request)
        check_program(memory.program, weights=memory.weights)
        _write(writer, memory)
        writer.finish(
            options=request.record(), model_sha256=made.model_sha256, arch_sha256=memory.arch_sha256
        )
    return load(output)


def load(path: str | Path, *, arch: str | Path | Architecture | None = None) -> Artifact:
    """Open an artifact.

    ``arch``: the machine it is meant to run on; raises ``UsageError`` (exit 2) when it was compiled for another,
    and for a folder that is no artifact, unfinished, truncated or altered.
    """
    expected = choose_backend(arch, None)[1].sha256 if arch is not None else None
    return Artifact(_Files(open_artifact(Path(path), expected_arch_sha256=expected)))


def _write(writer: ArtifactWriter, memory: _Memory) -> None:
    """All files of an artifact but the manifest."""
    save_program(memory.program, writer.path("program"))
    writer.write_weights(memory.weights)
    for operator, key in zip(memory.program.hosts, memory.host_models, strict=True):
        writer.write_bytes(f"host/{operator.model}", memory.made.store.array(key).tobytes())
    for level in ("graph", "quantised", "mapped", "isa"):
        if level in memory.made.modules:
            writer.write_bytes(f"ir/{level}.mlir", print_module(memory.made.modules[level]).encode())
    memory.made.store.save(writer.path(IR_STORE))
    text = json.dumps(memory.report, indent=1, sort_keys=True) + "\n"
    writer.write_bytes("report.json", text.encode())


class _Source:
    """Where an artifact's parts come from: memory or files."""

    path: Path | None = None

    @property
    def manifest(self) -> Mapping[str, Any]:
        """Versions, options, hashes."""
        raise NotImplementedError

    @property
    def program(self) -> Program:
        """The program."""
        raise NotImplementedError

    @property
    def weights(self) -> Mapping[str, Array]:
        """The weight image."""
        raise NotImplementedError

    @property
    def report(self) -> Mapping[str, Any]:
        """The compile's report."""
        raise NotImplementedError

    def host_model(self, name: str) -> bytes:
        """A host operator's model."""
        raise NotImplementedError

    def level(self, name: str) -> Any:
        """The module of a level, with its context."""
        raise NotImplementedError


@dataclass
class _Stopped(_Source):
    """A compile that ended before the program."""

    made: Compiled
    request: CompileOptions

    @property
    def manifest(self) -> Mapping[str, Any]:
        return {"options": self.request.record(), "model_sha256": self.made.model_sha256}

    @property
    def program(self) -> Program:
        raise UsageError("the compile stopped before the program; compile without stop_after")

    @property
    def report(self) -> Mapping[str, Any]:
        raise UsageError("the compile stopped before the program; compile without stop_after")

    def level(self, name: str) -> Any:
        if name not in self.made.modules:
            raise UsageError(
                f"the compile stopped before level '{name}'; it has {', '.join(self.made.modules)}"
            )
        return self.made.modules[name], self.made.ctx


@dataclass
class _Memory(_Stopped):
    """A finished compile that was not written."""

    @property
    def program(self) -> Program:
        assert self.made.linked is not None
        return self.made.linked.program

    @property
    def host_models(self) -> tuple[str, ...]:
        """Keys of the host operators' models in the store."""
        assert self.made.linked is not None
        return self.made.linked.host_models

    @cached_property
    def weights(self) -> Mapping[str, Array]:
        return {key: self.made.store.array(key) for key in self.program.weights}

    @property
    def arch_sha256(self) -> str:
        """The machine's hash."""
        assert self.made.ctx.arch is not None
        return self.made.ctx.arch.sha256

    @cached_property
    def report(self) -> Mapping[str, Any]:
        return build_report(self.made)

    def host_model(self, name: str) -> bytes:
        index = [o.model for o in self.program.hosts].index(name)
        return self.made.store.array(self.host_models[index]).tobytes()


@dataclass
class _Files(_Source):
    """An artifact on disk; parts are read and checked when first used."""

    files: ArtifactFiles

    def __post_init__(self) -> None:
        self.path = self.files.folder

    @property
    def manifest(self) -> Mapping[str, Any]:
        return self.files.manifest

    @cached_property
    def program(self) -> Program:
        return self.files.program()

    @cached_property
    def weights(self) -> Mapping[str, Array]:
        return self.files.weights()

    @cached_property
    def report(self) -> Mapping[str, Any]:
        return json.loads(self.files.read_bytes("report.json"))

    def host_model(self, name: str) -> bytes:
        return self.files.host_model(name)

    def level(self, name: str) -> Any:
        from cimc.dialects.context import CimContext
        from cimc.dialects.weights import WeightStore
        from cimc.driver import parse_module

        file = f"ir/{name}.mlir"
        if file not in self.files.names() or not (self.files.folder / file).exists():
            raise UsageError(f"the artifact holds no {file}; compile again to run engine '{name}'")
        arch = Architecture.model_validate(self.program.machine)
        ctx = CimContext(store=WeightStore.load(self.files.path(IR_STORE)), arch=arch)
        return parse_module(self.files.read_bytes(file).decode(), ctx, file), ctx


class Artifact:
    """A compiled model: runs, is timed, and says what was decided."""

    def __init__(self, source: _Source):
        self._source = source

    @property
    def path(self) -> Path | None:
        """The artifact's folder; ``None`` while it is in memory only."""
        return self._source.path

    @property
    def manifest(self) -> Mapping[str, Any]:
        """Versions, options and hashes."""
        return self._source.manifest

    @property
    def program(self) -> Program:
        """The program."""
        return self._source.program

    @property
    def report(self) -> Mapping[str, Any]:
        """What the compiler decided, per stage and in all (docs/artifact.md)."""
        return self._source.report

    @property
    def weights(self) -> Mapping[str, Array]:
        """The weight image: integer matrices (K, N) by name."""
        return self._source.weights

    def run(
        self,
        inputs: Mapping[str, Array],
        *,
        taps: Collection[str] = (),
        engine: str = "program",
        walk: bool = False,
    ) -> RunResult:
        """Execute the model on ``inputs``, arrays by name with the batch first; any number of frames.

        ``taps``: names of tensors to keep as well. ``walk``: engine ``program`` a row, a window and a digit at a time.
        Raises ``UsageError`` for inputs or taps that the model does not have, and for an unknown engine.
        """
        if engine not in ENGINES:
            raise UsageError(f"engine is one of {', '.join(ENGINES)}, not '{engine}'")
        from cimc.execution import run_level, run_stream

        if engine == "program":
            given = self._framed(inputs)
            found = run_stream(self.program, self._source.weights, given, taps, self._source.host_model, walk)
            return self._unframed(found)
        module, ctx = self._source.level(engine)
        return run_level(engine, module, ctx, inputs, taps)

    @property
    def _separable(self) -> bool:
        """Whether the first extent of inputs and outputs counts frames."""
        return bool(self.report["batch"])

    def _framed(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Inputs with a leading frame extent; a model whose batch cannot be split is one frame."""
        if self._separable:
            return {name: np.asarray(array) for name, array in inputs.items()}
        return {name: _one_frame(np.asarray(array)) for name, array in inputs.items()}

    def _unframed(self, found: RunResult) -> RunResult:
        if self._separable:
            return found
        shapes: dict[str, list[int]] = self.report["output_shapes"]

        def shaped(arrays: Mapping[str, Array]) -> dict[str, Array]:
            return {k: a.reshape(shapes[k]) if k in shapes else a[0] for k, a in arrays.items()}

        return RunResult(
            shaped(found.outputs),
            shaped(found.integer_outputs),
            shaped(found.taps),
            found.array_macs,
            found.total_macs,
            found.executed_instructions,
        )

    def simulate(
        self,
        images: int = 8,
        *,
        trace: str | Path | None = None,
        window_cycles: int | None = None,
        include_writes: bool = False,
    ) -> Timing:
        """Time ``images`` frames on the cycle engine; ``trace`` writes a Chrome JSON trace.

        Weights stay in the arrays between runs, so they are programmed before cycle 0 unless ``include_writes``.
        ``interval_cycles`` is the distance of the last two images' ends; give at least 8 images for a steady state.
        """
        from cimc.runtime.cycle.engine import simulate
        from cimc.runtime.cycle.trace import write_trace

        timing = simulate(
            self.program,
            images=images,
            trace=trace is not None,
            window_cycles=window_cycles,
            resident_weights=not include_writes,
        )
        if trace is not None:
            write_trace(timing, trace)
        return timing


def _one_frame(array: Array) -> Array:
    """A leading extent of one frame; an extent of 1 that is there already is it."""
    return array if array.ndim > 1 and array.shape[0] == 1 else array[None]


__all__ = ["BATCH", "ENGINES", "Artifact", "RunResult", "Timing", "compile", "load"]
