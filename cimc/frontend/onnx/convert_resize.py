"""``Resize`` and ``Upsample``: nearest moves elements, linear adds two neighbours along each axis in turn."""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt
from onnx import TensorProto
from xdsl.ir import SSAValue

from cimc.dialects.graph import AddOp
from cimc.dialects.graph_types import shape_of
from cimc.frontend.onnx.builder import Builder, float_type
from cimc.frontend.onnx.convert_elementwise import with_constant
from cimc.frontend.onnx.convert_moves import check_countable, move, rearrange
from cimc.frontend.onnx.node import Node, ToHost
from cimc.frontend.onnx.structure import node_inputs
from cimc.frontend.onnx.submodel import Typed, one_node_model, result_types, run_session, session_or_error

_AGREES = 1e-4
"""Largest difference from onnxruntime on numbers of about 1: float32 positions of it and of ours may round apart."""


def resize(build: Builder, node: Node) -> None:
    """Both operators, their sizes or scales constant.

    Where the interpolated elements lie is computed here and compared with onnxruntime on random numbers: a form of
    which the two do not say the same (antialias, a region of interest) stays on the host.
    """
    mode = node.text("mode", "nearest")
    if mode == "nearest":
        move(build, node)
        return
    if mode not in ("linear", "bilinear"):
        raise ToHost(f"it interpolates ({mode}); the digital unit takes nearest and linear")
    x = build.image_or_vector(node.input(0))
    for name in node_inputs(node.proto)[1:]:
        if name not in build.constants:
            raise ToHost(f"its operand {name!r} is computed at run time")
    given = shape_of(x)
    check_countable("its operand", given)
    drawn = np.random.default_rng(0).standard_normal(given).astype(np.float32)
    wanted = _by_onnxruntime(build, node, drawn)
    axes = [axis for axis in range(len(given)) if wanted.shape[axis] != given[axis]]
    scales = _scales(build, node, given, wanted.shape)
    mode = node.text("coordinate_transformation_mode", "half_pixel" if node.opset > 10 else "asymmetric")
    taps = {a: _neighbours(mode, given[a], wanted.shape[a], scales[a]) for a in axes}
    found = drawn
    for axis, (index, share) in taps.items():
        found = _interpolated(found, axis, index, share)
    if not axes or np.abs(found - wanted).max(initial=0.0) > _AGREES:
        raise ToHost(f"its linear interpolation is of another form than {mode} of two neighbours")
    for axis, (index, share) in taps.items():
        last = axis == axes[-1]
        x = _between(build, node, x, axis, index, share, node.output if last else f"{node.output}/axis{axis}")


def _by_onnxruntime(build: Builder, node: Node, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    constants = {n: build.constants[n].proto for n in node_inputs(node.proto) if n in build.constants}
    operand = {node.input(0): Typed(TensorProto.FLOAT, x.shape)}
    model = one_node_model(node, build.model, operand, constants)
    session = session_or_error(model)
    for name, typed in result_types(model, session).items():
        check_countable(f"its result {name!r}", typed.shape)
    (found,) = run_session(session, {node.input(0): x}, [node.output])
    if found.ndim != x.ndim or not found.size:
        raise ToHost(f"its result has the shape {found.shape}")
    return found


def _scales(
    build: Builder, node: Node, given: tuple[int, ...], wanted: tuple[int, ...]
) -> npt.NDArray[np.float64]:
    """Scale of each axis: as the model states it, else the quotient of the extents."""
    position = 1 if node.op_type == "Upsample" or node.opset < 11 else 2
    stated = build.constant(node.input(position)) if node.input(position) else None
    if stated is None or stated.size != len(given):
        return np.array(wanted) / np.array(given)
    return stated.astype(np.float64)


def _neighbours(
    mode: str, given: int, wanted: int, scale: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """For each element of the result the element before it, and the share of the one behind (ONNX, Resize)."""
    at = np.arange(wanted, dtype=np.float64)
    match mode:
        case "half_pixel":
            at = (at + 0.5) / scale - 0.5
        case "pytorch_half_pixel":
            at = (at + 0.5) / scale - 0.5 if wanted > 1 else np.zeros(1)
        case "align_corners":
            at = at * (given - 1) / (wanted - 1) if wanted > 1 else np.zeros(1)
        case "asymmetric":
            at = at / scale
        case _:
            raise ToHost(f"it interpolates at positions {mode!r}, which have no formula here")
    at = np.clip(at, 0, given - 1)
    index = np.minimum(np.floor(at), max(given - 2, 0)).astype(np.int64)
    return index, (at - index).astype(np.float32)


def _interpolated(
    x: npt.NDArray[np.float32], axis: int, index: npt.NDArray[np.int64], share: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    along = share.reshape([-1 if a == axis else 1 for a in range(x.ndim)])
    behind = np.minimum(index + 1, x.shape[axis] - 1)
    summed = np.take(x, index, axis) * (1 - along) + np.take(x, behind, axis) * along
    return summed.astype(np.float32)


def _between(
    build: Builder,
    node: Node,
    x: SSAValue,
    axis: int,
    index: npt.NDArray[np.int64],
    share: npt.NDArray[np.float32],
    output: str,
) -> SSAValue:
    """``x`` interpolated along ``axis``: two moves, each times its share, added."""
    shape = shape_of(x)
    last = shape[axis] - 1
    terms: list[SSAValue] = []
    for name, places, weight in (("before", index, 1 - share), ("behind", index + 1, share)):
        picked = partial(np.take, indices=np.minimum(places, last), axis=axis)
        moved = rearrange(build, node, x, picked, f"{output}/{name}")
        along = weight.astype(np.float32).reshape([-1 if a == axis else 1 for a in range(len(shape))])
        terms.append(with_constant(build, node, "mul", moved, along, f"{output}/{name}_share"))
    extents = (*shape[:axis], len(index), *shape[axis + 1 :])
    op = AddOp(terms[0], terms[1], float_type(extents), tensors=[output])
    build.add(op, node, output)
    return op.result
