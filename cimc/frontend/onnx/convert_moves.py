"""Operators that only move elements: each becomes the index of where every element comes from.

Where that is, onnxruntime says: it runs the node on the numbers of the elements instead of the elements.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto
from xdsl.dialects.builtin import TensorType
from xdsl.ir import SSAValue

from cimc.diagnostics import UnsupportedError
from cimc.dialects.graph import IndexMapOp, LookupOp, QuantType, ReshapeOp
from cimc.dialects.graph_types import shape_of, tensor
from cimc.frontend.onnx.builder import Builder, float_type
from cimc.frontend.onnx.node import Node, ToHost
from cimc.frontend.onnx.structure import node_inputs
from cimc.frontend.onnx.submodel import Typed, one_node_model, result_types, run_session, session_or_error

Index = npt.NDArray[np.int64]

MOVES: Mapping[str, tuple[int, ...] | None] = MappingProxyType(
    {
        **dict.fromkeys(
            ("Transpose", "Slice", "Split", "Expand", "Tile", "Trilu", "Upsample", "Resize"), (0,)
        ),
        **dict.fromkeys(("Gather", "GatherElements", "GatherND", "DepthToSpace", "SpaceToDepth"), (0,)),
        "Pad": (0, 2),
        "Where": (1, 2),
        "Concat": None,
    }
)
"""By operator: which inputs are data (``None``: all)."""

_NUMBERS: tuple[tuple[int, Any, int], ...] = (
    (TensorProto.INT64, np.int64, 1 << 62),
    (TensorProto.INT32, np.int32, 1 << 31),
    (TensorProto.DOUBLE, np.float64, 1 << 53),
    (TensorProto.FLOAT, np.float32, 1 << 24),
)
"""Elements that numbers may be for onnxruntime to take them, and below which they are exact."""

MAX_MOVED = 1 << 26
"""Elements of a result whose sources are written down one by one: 512 MiB of int64, checked before allocating."""


def move(build: Builder, node: Node) -> None:
    """A node of :data:`MOVES`, its other inputs constant; data may be values or constants."""
    _check_moves_only(node)
    positions = MOVES[node.op_type]
    given = range(len(node.proto.input)) if positions is None else positions
    data = tuple(dict.fromkeys(n for n in map(node.input, given) if n))
    for name in node_inputs(node.proto):
        if name not in build.constants and name not in data:
            raise ToHost(f"its operand {name!r} is computed at run time")
    values = [name for name in data if name not in build.constants]
    fixed = [name for name in data if name in build.constants]
    element = tensor(build.known(values[0])).get_element_type()
    if any(tensor(build.known(n)).get_element_type() != element for n in values) or (
        fixed and str(element) != "f32"
    ):
        raise ToHost("its operands have different elements, or constants that are not f32")
    if isinstance(element, QuantType) or any(0 in shape_of(build.values[n]) for n in values):
        raise ToHost("an operand is empty or holds codes")
    constants = [build.any_float_constant(name, "operand") for name in fixed]
    numbers, first = {}, 1  # 0 is what the operator fills in itself
    for name, shape in [
        *((n, shape_of(build.values[n])) for n in values),
        *((n, c.shape) for n, c in zip(fixed, constants, strict=True)),
    ]:
        check_countable(f"its operand {name!r}", shape)
        numbers[name] = np.arange(first, first + prod(shape), dtype=np.int64).reshape(shape)
        first += prod(shape)
    constant = np.concatenate([c.reshape(-1) for c in constants]) if constants else np.zeros(0, np.float32)
    for name, index in zip(node.results, _moved(build, node, numbers), strict=True):
        if not index.size:
            raise ToHost(f"its result {name!r} is empty")
        add_move(build, node, [build.values[n] for n in values], index - 1, name, constant)


def _check_moves_only(node: Node) -> None:
    """Raise :class:`ToHost` for modes of an operator that compute."""
    if node.op_type in ("Resize", "Upsample") and node.text("mode", "nearest") != "nearest":
        raise ToHost(f"it interpolates ({node.text('mode', '')}); only nearest moves elements")
    if node.op_type == "Pad" and node.number("value", 0.0) != 0.0:
        raise ToHost("it fills with a value other than 0")


def check_countable(what: str, shape: tuple[int, ...] | None) -> None:
    """Raise :class:`ToHost` for tensors whose elements are too many to number, or whose extents no one knows."""
    if shape is None:
        raise ToHost(f"{what} has extents known only at run time")
    if prod(shape) > MAX_MOVED:
        raise ToHost(f"{what} has the extents {shape}, more than {MAX_MOVED} elements to number")


def common_shape(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """What ``shapes`` broadcast to. Raises :class:`ToHost` when they do not."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError as error:
        raise ToHost(f"operands of shapes {' and '.join(map(str, shapes))} do not match") from error


def _moved(build: Builder, node: Node, numbers: Mapping[str, Index]) -> list[Index]:
    """The results of ``node`` on the numbers of the elements, in the first element type it takes."""
    most = max(int(n.max(initial=0)) for n in numbers.values())
    constants = {
        name: build.constants[name].proto
        for name in node_inputs(node.proto)
        if name in build.constants and name not in numbers
    }
    refusal = ToHost("its elements are too many to be numbered")
    for code, dtype, limit in _NUMBERS:
        if most >= limit:
            continue
        operands = {name: Typed(code, index.shape) for name, index in numbers.items()}
        try:
            model = one_node_model(node, build.model, operands, constants)
            session = session_or_error(model)
            for name, typed in result_types(model, session).items():
                check_countable(f"its result {name!r}", typed.shape)
            given = {name: index.astype(dtype) for name, index in numbers.items()}
            found = run_session(session, given, node.results)
        except UnsupportedError as error:
            refusal = ToHost(str(error))
            continue
        return [np.asarray(array).astype(np.int64) for array in found]
    raise refusal


def add_move(
    build: Builder,
    node: Node,
    operands: Sequence[SSAValue],
    index: Index,
    name: str,
    constant: npt.NDArray[np.float32] | None = None,
) -> SSAValue:
    """Append ``graph.index_map``: the result ``name`` takes element ``index`` of all ``operands`` and ``constant``.

    An index of -1 is a zero.
    """
    held = np.zeros(0, np.float32) if constant is None else constant
    if np.any(index < 0):
        total = sum(prod(shape_of(v)) for v in operands) + held.size
        index, held = np.where(index < 0, total, index), np.append(held, np.float32(0.0))
    element = tensor(operands[0]).get_element_type()
    if held.size and str(element) != "f32":
        raise ToHost(f"it fills in zeros between elements {element}")
    frame = _frame_index(operands, index)
    op = IndexMapOp(
        operands,
        TensorType(element, index.shape),
        index=build.put(f"{node.name}.index", index if frame is None else frame),
        constant=build.put(f"{node.name}.elements", held.astype(np.float32)) if held.size else None,
        per_frame=frame is not None,
        tensors=[name],
    )
    build.add(op, node, name)
    return op.result


def _frame_index(operands: Sequence[SSAValue], index: Index) -> Index | None:
    """The index within one entry of axis 0, if that is a batch whose entries stay apart."""
    batch = index.shape[0] if index.ndim > 1 else 0
    if not batch or any(shape_of(v)[:1] != (batch,) or len(shape_of(v)) < 2 for v in operands):
        return None
    starts = np.cumsum([0, *(prod(shape_of(v)) for v in operands)])
    own = np.cumsum([0, *(prod(shape_of(v)[1:]) for v in operands)])
    part = np.searchsorted(starts, index, side="right") - 1
    inside = part < len(operands)
    entry = np.arange(batch).reshape(-1, *[1] * (index.ndim - 1))
    sizes = np.append(own[1:] - own[:-1], 1)
    local = index - starts[part]
    frame = own[part] + np.where(inside, local % sizes[part], local)
    if np.any(inside & (local // sizes[part] != entry)) or np.any(frame != frame[:1]):
        return None
    return frame[0]


def numbered(x: SSAValue) -> Index:
    """The numbers of the elements of ``x``, in its shape. Raises :class:`ToHost` beyond :data:`MAX_MOVED`."""
    check_countable("its operand", shape_of(x))
    return np.arange(prod(shape_of(x)), dtype=np.int64).reshape(shape_of(x))


def rearrange(
    build: Builder, node: Node, x: SSAValue, how: Callable[[Index], npt.NDArray[Any]], name: str
) -> SSAValue:
    """``x`` moved as ``how`` moves an array of its shape; ``x`` itself where that changes nothing."""
    before = numbered(x)
    moved = how(before)
    check_countable("its result", moved.shape)
    after = np.asarray(moved, order="C")  # ascontiguousarray makes vectors of scalars
    if after.shape == before.shape and np.array_equal(after, before):
        return x
    return add_move(build, node, [x], after, name)


def embed(build: Builder, node: Node) -> bool:
    """``Gather`` of rows of a constant table by indices of run time; whether the node is one."""
    table, ids = build.constant(node.input(0)), build.values.get(node.input(1))
    if table is None or ids is None:
        return False
    if table.dtype != np.float32 or node.integer("axis", 0) or table.ndim < 1 or not table.size:
        raise ToHost(f"it picks from constants {table.dtype} along axis {node.integer('axis', 0)}")
    if not shape_of(ids) or str(tensor(ids).get_element_type()) not in ("i32", "i64"):
        raise ToHost("its indices are a scalar, or not i32 or i64")
    depth = prod(table.shape[1:])
    stored = build.put(f"{node.name}.table", table.reshape(len(table), depth))
    name = node.output if table.ndim == 2 else f"{node.output}/rows"
    op = LookupOp(ids, depth, table=stored, tensors=[name])
    build.add(op, node, name)
    if table.ndim != 2:
        extents = float_type((*shape_of(ids), *table.shape[1:]))
        build.add(ReshapeOp(op.result, extents, tensors=[node.output]), node, node.output)
    return True


def gather(build: Builder, node: Node) -> None:
    """``Gather``: rows of a table by run-time indices, or elements by constant ones."""
    if not embed(build, node):
        move(build, node)
