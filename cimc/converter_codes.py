"""Codes for the calibration of converters: what the inputs of array operators hold on calibration data."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import ModuleOp

from cimc.calibration import Samples
from cimc.dialects.context import CimContext
from cimc.dialects.graph import INPUTS, GemmOp, ProductOperation, main_function, main_names, tensor_names
from cimc.dialects.graph_types import quant_of, shape_of
from cimc.dialects.row_layout import frame_shape, row_layout, token_layout
from cimc.interpreters.quantised import execute_quantised
from cimc.passes.schedule.array_product import flattened_image, machine_coding
from cimc.passes.schedule.calibrate_converters import CODES

IMAGES = 4
"""Calibration images whose codes are kept; 256 windows of each layer are looked at."""


def put_converter_codes(module: ModuleOp, ctx: CimContext, samples: Samples) -> None:
    """Run level 2 on a few samples and store the codes at inputs of operators whose converter may lose.

    Does nothing on machines whose converter is lossless for every weight, or with ``converter: full``.
    """
    if ctx.mapping is not None and ctx.mapping.converter == "full":
        return
    wanted = _lossy_inputs(module, ctx)
    if not wanted:
        return
    batches = {
        name: shape_of(argument)[0]
        for name, argument in zip(main_names(module, INPUTS), main_function(module).args, strict=True)
    }
    found: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in wanted}
    for index in range(min(samples.runs, IMAGES)):
        run = execute_quantised(module, ctx.store, samples.run(index, batches), taps=wanted)
        for name, as_tokens in wanted.items():
            found[name].append(_rows(run.taps[name], as_tokens))
    for name, rows in found.items():
        ctx.store.put(CODES + name, np.stack(rows))


def _lossy_inputs(module: ModuleOp, ctx: CimContext) -> dict[str, bool]:
    """Input tensors by name, with whether their rows are tokens."""
    assert ctx.arch is not None
    names = _value_names(module)
    wanted: dict[str, bool] = {}
    for op in module.walk():
        if not isinstance(op, ProductOperation) or op.weight_bits is None:
            continue
        given = quant_of(op.input)
        assert given is not None
        coding = machine_coding(ctx.arch, op.weight_bits.value.data, given, 0)
        if coding.always_lossless(ctx.arch.crossbar.rows):
            continue
        image = flattened_image(op) if isinstance(op, GemmOp) else None
        if image is not None:
            wanted[names[image]] = False
        else:
            wanted[names[op.input]] = isinstance(op, GemmOp)
    return wanted


def _value_names(module: ModuleOp) -> dict[Any, str]:
    main = main_function(module)
    names: dict[Any, str] = dict(zip(main.args, main_names(module, INPUTS), strict=True))
    for op in main.body.block.ops:
        names |= dict(zip(op.results, tensor_names(op), strict=False))
    return names


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
