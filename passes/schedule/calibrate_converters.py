"""Steps of converters that can lose information, from the codes calibration data gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, TensorType, i64
from xdsl.ir import Operation
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from cimc.diagnostics import UsageError
from cimc.dialects.base import located
from cimc.dialects.cim import RequantiseOp, StageOp
from cimc.dialects.cim_types import WindowAttr
from cimc.dialects.context import CimContext
from cimc.dialects.graph_types import quant_of, shape_of
from cimc.dialects.locations import describe
from cimc.dialects.weights import WeightRefAttr
from cimc.passes.schedule.array_product import coding_attr, coding_of
from cimc.passes.schedule.sum_bounds import accumulator_bits, largest_sum
from cimc.runtime.crossbar.calibrate import Observed, choose_steps, full_steps, observe
from cimc.runtime.crossbar.cells import Cells, store
from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.crossbar.converter import StepChoice
from cimc.runtime.crossbar.product import ArrayProduct
from cimc.runtime.crossbar.rows import Bounds, group_bounds

WINDOWS = 256
"""Windows of a layer that are observed; spread evenly over images and positions."""


@dataclass(frozen=True)
class CalibrateConvertersPass(ModulePass):
    """Choose converter steps h and their unit 2^-F for every stage whose converter can lose.

    There is a step for each input digit and weight plane.

    ``converter: calibrated`` observes partial sums on calibration codes; ``full`` covers the largest possible
    sums. Stages whose converter is lossless on their own weights keep h = 1, F = 0. Constants and multipliers of
    the tail are scaled to the new unit, exactly (docs/crossbar.md, steps 6 to 8).

    ```mlir
    %acc = cim.read_xb %w, %a #cim.window<...> : ...                         // before
    %acc = cim.read_xb %w, %a #cim.window<...> steps <"conv1.steps"> : ...   // after
    ```
    """

    name = "calibrate-converters"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Set ``steps`` and codings in place. Raises ``UsageError`` when codes are wanted and not given."""
        assert isinstance(ctx, CimContext)
        full = ctx.mapping is not None and ctx.mapping.converter == "full"
        for stage in list(_lossy_stages(op, ctx)):
            choice = _full(stage, ctx) if full else _calibrated(stage, ctx)
            _set_steps(stage, choice, ctx)


def _lossy_stages(module: ModuleOp, ctx: CimContext) -> Iterator[StageOp]:
    assert ctx.arch is not None
    for stage in module.walk():
        if not isinstance(stage, StageOp) or stage.write is None:
            continue
        if coding_of(stage.write.coding).always_lossless(ctx.arch.crossbar.rows):
            continue
        if not all(ArrayProduct(t.cells, t.flips, t.coding, t.bounds).lossless for t in _tiles(stage, ctx)):
            yield stage


@dataclass(frozen=True)
class _Tile:
    """A row tile of one block of the weights, all columns of the block together."""

    cells: Cells
    flips: npt.NDArray[np.bool_]
    coding: Coding
    bounds: Bounds
    first: int
    """Its first weight row."""
    channels: tuple[int, int]
    """The source channels its block sees."""


def _tiles(stage: StageOp, ctx: CimContext) -> Iterator[_Tile]:
    assert stage.write is not None
    assert stage.read is not None
    assert ctx.arch is not None
    coding = coding_of(stage.write.coding)
    matrix = ctx.store.array(stage.write.weight.key.data)
    rows, diagonal = ctx.arch.crossbar.rows, stage.read.diagonal
    for n0 in range(0, matrix.shape[1], diagonal.columns):
        for start in range(0, len(matrix), rows):
            tile = matrix[start : start + rows, n0 : n0 + diagonal.columns]
            bounds = group_bounds([(len(tile), 0)], coding.parallel_rows)
            yield _Tile(
                *store(tile, coding, bounds), coding, bounds, start, channels=diagonal.channel_range(n0)
            )


def _full(stage: StageOp, ctx: CimContext) -> StepChoice:
    """The least steps (I, J) that cover every group of every tile."""
    choices = [full_steps(t.cells, t.coding, t.bounds) for t in _tiles(stage, ctx)]
    # One unit for the operator: the coarsest tile's F, at which all steps fit 16 bits.
    bits = min(c.frac_bits for c in choices)
    shifted = [-(-c.h.max(axis=0) >> (c.frac_bits - bits)) for c in choices]
    return StepChoice(np.maximum.reduce(shifted), bits)


def _calibrated(stage: StageOp, ctx: CimContext) -> StepChoice:
    key = codes_key(stage)
    if key not in ctx.store:
        raise UsageError(
            located(
                stage,
                "the converter can lose information and calibration codes of its input are missing; "
                "give calibration data, or set converter: full",
            )
        )
    assert stage.read is not None
    given = quant_of(stage.read.source)
    assert given is not None
    windows = windows_of(ctx.store.array(key), stage.read.window, given.zero_point)
    seen: list[Observed] = []
    for tile in _tiles(stage, ctx):
        rows = windows[..., slice(*tile.channels)].reshape(len(windows), -1)
        seen.append(
            observe(rows[:, tile.first :][:, : len(tile.cells)], tile.cells, tile.coding, tile.bounds)
        )
    assert stage.write is not None
    return choose_steps(seen, coding_of(stage.write.coding))


def windows_of(codes: npt.NDArray[Any], window: WindowAttr, zero_point: int) -> npt.NDArray[Any]:
    """Up to :data:`WINDOWS` windows (M, kh, kw, C) of codes (images, H, W, C), spread evenly."""
    (kh, kw), (sh, sw), (top, left, bottom, right), (dh, dw) = (
        window.kernel,
        window.strides,
        window.pads,
        window.dilations,
    )
    padded = np.pad(codes, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=zero_point)
    spans = sliding_window_view(padded, ((kh - 1) * dh + 1, (kw - 1) * dw + 1), axis=(1, 2))
    taken = spans[:, ::sh, ::sw, :, ::dh, ::dw]  # images, rows, columns, channels, kh, kw
    images, rows, columns = taken.shape[:3]
    total = images * rows * columns
    picks = np.unique(np.linspace(0, total - 1, min(total, WINDOWS)).astype(np.int64))
    i, rest = np.divmod(picks, rows * columns)
    r, c = np.divmod(rest, columns)
    return taken[i, r, c].transpose(0, 2, 3, 1)


def _set_steps(stage: StageOp, choice: StepChoice, ctx: CimContext) -> None:
    write, read = stage.write, stage.read
    assert write is not None
    assert read is not None
    label = stage.label.data
    write.coding = coding_attr(replace(coding_of(write.coding), frac_bits=choice.frac_bits))
    steps = np.asarray(choice.h, np.int64)
    read.steps = WeightRefAttr.of(ctx.store.put(ctx.store.fresh(f"{label}.steps"), steps))
    _widen(stage, steps, ctx)
    if choice.frac_bits == 0:
        return
    for op in stage.body.block.ops:
        if isinstance(op, RequantiseOp):
            constant = ctx.store.array(op.constant.key.data) << choice.frac_bits
            scale = np.float32(2.0**-choice.frac_bits)
            multiplier = ctx.store.array(op.multiplier.key.data) * scale
            op.constant = WeightRefAttr.of(ctx.store.put(ctx.store.fresh(f"{label}.constant"), constant))
            op.multiplier = WeightRefAttr.of(
                ctx.store.put(ctx.store.fresh(f"{label}.multiplier"), multiplier)
            )


def _widen(stage: StageOp, steps: npt.NDArray[np.int64], ctx: CimContext) -> None:
    """Give the sums 64 bits where errors of the converter, or finer units, could carry them beyond 32."""
    write, read = stage.write, stage.read
    assert write is not None
    assert read is not None
    assert ctx.arch is not None
    matrix = ctx.store.array(write.weight.key.data)
    if accumulator_bits(largest_sum(matrix, coding_of(write.coding), ctx.arch.crossbar.rows, steps)) == 64:
        wide = TensorType(i64, shape_of(read.acc))
        Rewriter.replace_value_with_new_type(read.acc, wide)


def codes_key(op: Operation) -> str:
    """The store's key of calibration codes that enter a product or its stage: rows (images, H, W, C).

    Stages keep the location of their product; it names the node, whatever became of its tensors.
    """
    return f"codes:{describe(op.location)}"
