"""Execution on devices that are not ideal: the mapped level with every array programmed by the device simulator.

The arithmetic between the arrays is that of the mapped interpreter (docs/numerics.md 0), the arrays are those of
``cimc.runtime.device``: one chip instance, its cells made once, its converters those of the artifact.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from xdsl.dialects.builtin import ModuleOp

from cimc.diagnostics import UsageError
from cimc.dialects.cim import StageOp
from cimc.dialects.context import CimContext
from cimc.execution import joined
from cimc.interpreters.host import HostRunner
from cimc.interpreters.mapped import execute_mapped
from cimc.interpreters.mapped_products import ArrayReader, ExactCells, Written
from cimc.results import RunResult
from cimc.runtime.device.explain import explain
from cimc.runtime.device.library import DeviceModel
from cimc.runtime.device.prepared import Prepared, prepare
from cimc.runtime.device.product import CHUNK_BYTES, read
from cimc.runtime.device.recipe import Chip, Recipe

Array = npt.NDArray[Any]

FRAMES_AT_ONCE = 32
"""Frames of one pass where reads of a cell are all alike."""

Place = tuple[str, int, int, int, int]
"""Stage; copy and first window of a row, which tell copies apart; first weight row and column."""


@dataclass(frozen=True)
class DeviceRun:
    """One chip at one time."""

    device: DeviceModel
    seed: int = 0
    chip: int = 0
    """Chip instance: another number is another chip of the same kind."""
    time_s: float = 0.0
    """Seconds since programming."""
    digital: tuple[str, ...] = ()
    """Globs of stages that a digital unit computes instead: exact products without cells and converters."""
    where: str = "cpu"
    """The torch device that computes."""
    chunk_bytes: int = CHUNK_BYTES


@dataclass
class DeviceReader:
    """The cells of one written block; counts the windows it has read, which name the draws of read noise."""

    recipe: Recipe
    prepared: Prepared
    where: str
    chunk_bytes: int
    windows: int = 0

    @property
    def lossless(self) -> bool:
        """Whether cells are ideal and no converter can lose information."""
        return self.prepared.lossless

    def read(self, qx: Array) -> npt.NDArray[np.int64]:
        """Windows ``qx`` (M, K) times the cells: int64 (M, N) in units of 2^-F."""
        codes = torch.tensor(qx, device=self.where)
        sums = read(self.recipe, self.prepared, codes, self.windows, self.chunk_bytes)
        self.windows += len(qx)
        return sums.cpu().numpy()


@dataclass
class DeviceArrays:
    """Programs blocks of weights on one chip, each once; a block programmed before is the same block."""

    run: DeviceRun
    readers: dict[Place, ArrayReader] = field(default_factory=dict[Place, ArrayReader])

    @property
    def copies_differ(self) -> bool:
        """Every copy has cells of its own."""
        return True

    def program(self, written: Written) -> ArrayReader:
        """The cells of this chip that hold ``written``, with the errors of their place."""
        at = (written.copy, written.position, written.first_row, written.first_column)
        place: Place = (written.stage, *at)
        known = self.readers.get(place)
        if known is None:
            known = self.readers[place] = self._made(written, place)
        return known

    def _made(self, written: Written, place: Place) -> ArrayReader:
        if any(fnmatchcase(written.stage, glob) for glob in self.run.digital):
            return ExactCells(ideal_converters=True).program(written)
        run = self.run
        chip = Chip(run.seed, run.chip, run.time_s)
        steps = written.steps
        recipe = Recipe(_layer_number(place), written.coding, written.segments, run.device, chip, steps)
        codes = torch.tensor(written.weights, device=run.where)
        return DeviceReader(recipe, prepare(recipe, codes), run.where, run.chunk_bytes)

    def explanations(self) -> dict[str, list[str]]:
        """By stage: which exact shortcut its first block takes, and why."""
        found: dict[str, list[str]] = {}
        for (stage, *_), reader in self.readers.items():
            if stage in found:
                continue
            simulated = isinstance(reader, DeviceReader)
            found[stage] = explain(reader.recipe, reader.prepared) if simulated else ["computed digitally"]
        return found


def _layer_number(place: Place) -> int:
    """A number of 32 bits for the place of a block, whatever else is programmed beside it."""
    return int.from_bytes(sha256(repr(place).encode()).digest()[:4], "little")


def run_device(
    module: ModuleOp,
    ctx: CimContext,
    inputs: Mapping[str, Array],
    taps: Collection[str],
    arrays: DeviceArrays,
) -> RunResult:
    """Execute a mapped module on the chip of ``arrays``.

    With read noise frames go one after the other: a frame's windows are read in order, so results do not depend on how
    frames are split into calls with the same ``arrays``. Raises UsageError for a time the device's drift was not
    fitted for and for globs without a stage.
    """
    run = arrays.run
    run.device.check_time(run.time_s)
    stages = [op.label.data for op in module.walk() if isinstance(op, StageOp) and op.read is not None]
    for glob in run.digital:
        if not any(fnmatchcase(stage, glob) for stage in stages):
            raise UsageError(
                f"no array stage matches the glob '{glob}'; stages are {', '.join(stages)}", where="digital"
            )
    frames = {len(a) for a in inputs.values() if np.ndim(a)}
    agreed = frames.pop() if len(frames) == 1 else 0  # the interpreter judges inputs that do not agree
    step = FRAMES_AT_ONCE if run.device.file.read_noise is None else 1
    host = HostRunner(ctx.store)
    parts: list[RunResult] = []
    for i in range(0, max(agreed, 1), step):
        some = {k: np.asarray(a)[i : i + step] for k, a in inputs.items()} if agreed else inputs
        found = execute_mapped(module, ctx.store, some, taps=taps, host=host, arch=ctx.arch, arrays=arrays)
        parts.append(RunResult(found.outputs, found.integer_outputs, found.taps))
    return joined(parts)
