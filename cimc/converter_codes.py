"""Codes for the calibration of converters: what the inputs of array operators hold on calibration data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue

from cimc.calibration import Samples
from cimc.dialects.context import CimContext
from cimc.dialects.graph import (
    INPUTS,
    OUTPUTS,
    GemmOp,
    ProductOperation,
    main_function,
    main_names,
    main_return,
    names,
)
from cimc.dialects.graph_types import quant_of, shape_of
from cimc.dialects.row_layout import frame_shape, row_layout, token_layout
from cimc.passes.schedule.array_product import flattened_image, machine_coding, stored_weights
from cimc.passes.schedule.calibrate_converters import codes_key

IMAGES = 4
"""Calibration images whose codes are kept; 256 windows of each layer are looked at."""


def put_converter_codes(module: ModuleOp, ctx: CimContext, load: Callable[[], Samples]) -> None:
    """Run level 2 on a few samples and store the codes at inputs of operators whose converter may lose.

    Does nothing on machines whose converter is lossless for every weight, or with ``converter: full``:
    ``load`` is called only where data is needed.
    """
    if ctx.mapping is not None and ctx.mapping.converter == "full":
        return
    wanted = _lossy_inputs(module, ctx)
    if not wanted:
        return
    # Machines without such converters need none of it.
    from cimc.interpreters.quantised import execute_quantised

    batches = {
        name: shape_of(argument)[0]
        for name, argument in zip(main_names(module, INPUTS), main_function(module).args, strict=True)
    }
    observer = _returning(module, {key: value for key, (value, _) in wanted.items()})
    found: dict[str, list[npt.NDArray[Any]]] = {key: [] for key in wanted}
    samples = load()
    for index in range(min(samples.runs, IMAGES)):
        run = execute_quantised(observer, ctx.store, samples.run(index, batches))
        for key, (_, as_tokens) in wanted.items():
            found[key].append(_rows(run.outputs[key], as_tokens))
    for key, rows in found.items():
        ctx.store.put(key, np.stack(rows))


def _returning(module: ModuleOp, values: dict[str, SSAValue]) -> ModuleOp:
    """A copy of ``module`` that returns ``values`` by name: codes of one tensor may differ between its users."""
    copy = module.clone()
    old, new = main_function(module), main_function(copy)
    twins: dict[SSAValue, SSAValue] = dict(zip(old.args, new.args, strict=True))
    for op, twin in zip(old.body.block.ops, new.body.block.ops, strict=True):
        twins |= dict(zip(op.results, twin.results, strict=True))
    main_return(copy).operands = [twins[value] for value in values.values()]
    new.attributes[OUTPUTS] = names(list(values))
    return copy


def _lossy_inputs(module: ModuleOp, ctx: CimContext) -> dict[str, tuple[SSAValue, bool]]:
    """By key of the store: what the windows of a product slide over, and whether its rows are tokens."""
    assert ctx.arch is not None
    wanted: dict[str, tuple[SSAValue, bool]] = {}
    for op in module.walk():
        if not isinstance(op, ProductOperation) or op.weight_bits is None:
            continue
        given = quant_of(op.input)
        assert given is not None
        coding = machine_coding(ctx.arch, stored_weights(op, ctx.store)[1], given, 0)
        if coding.always_lossless(ctx.arch.crossbar.rows):
            continue
        image = flattened_image(op) if isinstance(op, GemmOp) else None
        is_tokens = isinstance(op, GemmOp) and image is None
        wanted[codes_key(op)] = (op.input if image is None else image, is_tokens)
    return wanted


def _rows(array: npt.NDArray[Any], as_tokens: bool) -> npt.NDArray[Any]:
    """One frame (ONNX layout, batch 1) as rows (H, W, C)."""
    frame = frame_shape(array.shape)
    layout = token_layout(frame) if as_tokens else row_layout(frame)
    flat = array.reshape(-1)
    strides = (layout.row_stride, layout.pos_stride, layout.chan_stride)
    index = sum(
        np.arange(extent).reshape([-1 if a == axis else 1 for a in range(3)]) * stride
        for axis, (extent, stride) in enumerate(zip(layout.shape, strides, strict=True))
    )
    return flat[index]
