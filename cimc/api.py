"""The Python interface: ``cimc.compile``, ``cimc.load`` and the artifact they return.

artifact = cimc.compile("model.onnx", "isaac", calibration="images.npz", output="build/")
result = artifact.run({"x": images})
timing = artifact.simulate()
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cimc.artifact import Parts, parts_in_memory, parts_on_disk, write_artifact
from cimc.backends.schema import Architecture
from cimc.compiler import CompileOptions, build, choose_backend, read_mapping
from cimc.diagnostics import UsageError, raise_all
from cimc.driver import Dumps
from cimc.garbage import rare_collections
from cimc.mapping_options import MappingOptions, replaced
from cimc.results import RunResult
from cimc.runtime.artifact_files import ArtifactWriter, open_artifact
from cimc.runtime.cycle.timing import Timing
from cimc.runtime.program import Program

if TYPE_CHECKING:
    from onnx import ModelProto
    from xdsl.dialects.builtin import ModuleOp

    from cimc.device_run import DeviceRun
    from cimc.dialects.context import CimContext

Array = npt.NDArray[Any]

ENGINES = ("program", "mapped", "quantised", "graph", "device")
"""What can execute an artifact: the instruction stream, the interpreters of levels 3, 2 and 1, the device simulator."""


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
    scheduler: str | None = None,
    objective: str | None = None,
    power_cap_mw: float | None = None,
    stagger: bool | None = None,
    stagger_slack: float | None = None,
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
    ``network`` (``mesh`` or ``bus``), ``scheduler``, ``objective``, ``power_cap_mw``, ``stagger`` and ``stagger_slack``
    replace what the mapping says (docs/mapping-file.md). ``require_arrays``: fail if nothing runs on the arrays.
    ``backend``: a Python file that holds a backend. ``timing`` is called with name and seconds of each pass.

    Raises ``CimError``: ``UnsupportedError`` (exit 1), ``UsageError`` (2), ``DoesNotFitError`` (3).
    """
    if stop_after is not None and stop_after not in ("graph", "quantised", "mapped"):
        raise UsageError(f"stop_after is graph, quantised or mapped, not '{stop_after}'")
    chosen, machine = choose_backend(arch, backend)
    given = {
        "network": network,
        "scheduler": scheduler,
        "objective": objective,
        "power_cap_mw": power_cap_mw,
        "stagger": stagger,
        "stagger_slack": stagger_slack,
    }
    options = replaced(read_mapping(mapping), given)
    request = CompileOptions(
        shapes={name: tuple(shape) for name, shape in (shapes or {}).items()},
        mapping=options,
        calibration=calibration,
        stop_after=stop_after,
        require_arrays=require_arrays,
    )
    dumps = Dumps(Path(dump_ir)) if dump_ir is not None else None
    if output is None or stop_after is not None:
        with rare_collections():
            made = build(model, machine, chosen, request, dumps=dumps, resume=resume, on_time=timing)
            return Artifact(parts_in_memory(made, request))
    with rare_collections(), ArtifactWriter(Path(output)) as writer:
        made = build(model, machine, chosen, request, dumps=dumps, resume=resume, on_time=timing)
        write_artifact(writer, made, request)
    return load(output)


def load(path: str | Path, *, arch: str | Path | Architecture | None = None) -> Artifact:
    """Open an artifact.

    ``arch``: the machine it is meant to run on, with the network it was compiled for where that was chosen; raises
    ``UsageError`` (exit 2) when it was compiled for another, and for a folder that is no artifact, unfinished,
    truncated or altered.
    """
    files = open_artifact(Path(path))
    if arch is not None:
        machine = choose_backend(arch, None)[1]
        # What the compile was told to put in the place of the machine's own network.
        network = files.options.get("mapping", {}).get("network")
        files.check_architecture((machine.with_network(network) if network else machine).sha256)
    return Artifact(parts_on_disk(files))


class Artifact:
    """A compiled model: runs, is timed, and says what was decided."""

    def __init__(self, parts: Parts):
        self._parts = parts

    @property
    def path(self) -> Path | None:
        """The artifact's folder; ``None`` while it is in memory only."""
        return self._parts.path

    @property
    def manifest(self) -> Mapping[str, Any]:
        """Versions, options and hashes."""
        return self._parts.manifest

    @property
    def program(self) -> Program:
        """The program. Raises ``UsageError`` when the compile stopped before it."""
        if self._parts.program is None:
            raise UsageError("the compile stopped before the program; compile without stop_after")
        return self._parts.program

    @property
    def report(self) -> Mapping[str, Any]:
        """What the compiler decided, per stage and in all (docs/artifact.md)."""
        return self._parts.report

    def level(self, name: str) -> tuple[ModuleOp, CimContext]:
        """The module of a level (``graph``, ``quantised``, ``mapped``) and the context with its arrays.

        Raises ``UsageError`` when it was not kept.
        """
        return self._parts.level(name)

    @property
    def weights(self) -> Mapping[str, Array]:
        """The weight image: integer matrices (K, N) by name."""
        return self._parts.weights

    def run(
        self,
        inputs: Mapping[str, Array],
        *,
        taps: Collection[str] = (),
        engine: str = "program",
        walk: bool = False,
        device: DeviceRun | None = None,
    ) -> RunResult:
        """Execute the model on ``inputs``, arrays by name with the batch first; any number of frames.

        ``taps``: names of tensors to keep as well. ``walk``: engine ``program`` a row, a window and a digit at a time.
        ``device``: the chip of engine ``device``. Raises ``UsageError`` for inputs or taps that the model does not
        have, and for an unknown engine or one without its chip.
        """
        if engine not in ENGINES:
            raise UsageError(f"engine is one of {', '.join(ENGINES)}, not '{engine}'")
        from cimc.execution import run_level, run_stream

        if engine == "program":
            given = self._framed(inputs)
            found = run_stream(self.program, self._parts.weights, given, taps, self._parts.host_model, walk)
            return self._unframed(found)
        if engine == "device":
            return self._unframed(self._run_device(self._framed(inputs), taps, device))
        module, ctx = self._parts.level(engine)
        if engine == "mapped":
            return self._unframed(run_level(engine, module, ctx, self._framed(inputs), taps))
        return run_level(engine, module, ctx, inputs, taps)

    def _run_device(
        self, inputs: Mapping[str, Array], taps: Collection[str], device: DeviceRun | None
    ) -> RunResult:
        if device is None:
            raise UsageError("engine 'device' simulates one chip; give device=cimc.device_run.DeviceRun(...)")
        from cimc.device_run import DeviceArrays, run_device

        return run_device(*self._parts.level("mapped"), inputs, taps, DeviceArrays(device))

    @property
    def _separable(self) -> bool:
        """Whether the first extent of inputs and outputs counts frames."""
        return bool(self.report["batch"])

    def _framed(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Inputs with a leading frame extent; a model whose batch cannot be split is one frame."""
        if self._separable:
            return {name: np.asarray(array) for name, array in inputs.items()}
        wanted = {io.name: io.shape for io in self.program.io if io.direction == "in"}
        raise_all(
            [
                UsageError(
                    f"input '{name}' has shape {np.shape(array)}; this model mixes the entries of its batch, so one "
                    f"call takes one input, of shape {wanted[name]}"
                )
                for name, array in inputs.items()
                if name in wanted and np.shape(array) not in (wanted[name], (1, *wanted[name]))
            ]
        )
        arrays = {name: np.asarray(array) for name, array in inputs.items()}
        return {name: a[None] if a.shape == wanted.get(name) else a for name, a in arrays.items()}

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

        Weights that stay in the arrays between calls are programmed before cycle 0 unless ``include_writes``. What a
        program of several phases writes in every call always counts, and it is timed on the frames of one call.
        ``interval_cycles`` is the distance of the last two images' ends; give at least 8 images for a steady state.
        """
        from cimc.runtime.cycle.engine import simulate
        from cimc.runtime.cycle.trace import write_trace

        timing = simulate(
            self.program,
            images=min(images, self.program.frames) if self.program.phased else images,
            trace=trace is not None,
            window_cycles=window_cycles,
            resident_weights=not include_writes,
        )
        if trace is not None:
            write_trace(timing, trace)
        return timing


__all__ = ["ENGINES", "Artifact", "RunResult", "Timing", "compile", "load"]
