"""Per-channel factors, activations and sums go before a move, where the convolution before it takes them in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass

from cimc.dialects.context import CimContext
from cimc.dialects.graph import AddOp, AffineOp, ClipOp, ConvOp, IndexMapOp, ReluOp, ReshapeOp
from cimc.dialects.graph_base import names
from cimc.dialects.graph_types import shape_of, tensor
from cimc.dialects.weights import WeightStore
from cimc.passes.graph.whole_index import whole_index

Ints = npt.NDArray[np.int64]

_PRODUCERS = (ConvOp, AffineOp, ReluOp, ClipOp, AddOp)
"""What a hoisted operation may follow: a convolution, or what has been hoisted to it."""


@dataclass(frozen=True)
class HoistPointwise(ModulePass):
    """Move ``graph.affine``, Relu, Clip and Add from behind a reshape or move to before it.

    A one-dimensional convolution ends in a reshape, a transposed one in a move: a BatchNorm or an activation behind
    them would find no product to fold into. Channels must stay where they are for ``graph.affine``.

    ```mlir
    %c = graph.conv %x weight <"w"> ... tensors ["c"] : (tensor<1x3x1x8xf32>) -> tensor<1x4x1x8xf32>
    %r = graph.reshape %c tensors ["r"] : (tensor<1x4x1x8xf32>) -> tensor<1x4x8xf32>
    %y = graph.relu %r tensors ["y"] : (tensor<1x4x8xf32>) -> tensor<1x4x8xf32>
    ```

    becomes

    ```mlir
    %c = graph.conv %x weight <"w"> ... tensors ["c"] : (tensor<1x3x1x8xf32>) -> tensor<1x4x1x8xf32>
    %r = graph.relu %c tensors ["y/0"] : (tensor<1x4x1x8xf32>) -> tensor<1x4x1x8xf32>
    %y = graph.reshape %r tensors ["y"] : (tensor<1x4x1x8xf32>) -> tensor<1x4x8xf32>
    ```
    """

    name = "graph-hoist-pointwise"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrites in place; every value keeps its meaning and its name."""
        assert isinstance(ctx, CimContext)
        for found in [o for o in op.walk() if isinstance(o, AffineOp | ReluOp | ClipOp | AddOp)]:
            if isinstance(found, AddOp):
                _hoist_sum(found)
            else:
                _hoist(found, ctx.store)


def _follows_products(value: SSAValue) -> bool:
    """Whether all that ``value`` is moved from are convolutions, or what has been hoisted to them."""
    if not value.has_one_use():
        return False
    owner = value.owner
    if isinstance(owner, IndexMapOp | ReshapeOp):
        return _moves_only(owner) and all(_follows_products(v) for v in owner.operands)
    return isinstance(owner, _PRODUCERS)


def _moves_only(op: IndexMapOp | ReshapeOp) -> bool:
    return isinstance(op, ReshapeOp) or op.constant is None


def _hoist(op: AffineOp | ReluOp | ClipOp, store: WeightStore) -> None:
    """``op`` before the move that it follows, and before the move which that one follows."""
    move = op.input.owner
    if not isinstance(move, ReshapeOp | IndexMapOp) or not _follows_products(op.input):
        return
    if isinstance(op, AffineOp) and not (op.axis.value.data == 1 and _keeps_channels(move, store)):
        return
    made: list[AffineOp | ReluOp | ClipOp] = []
    for number, value in enumerate(move.operands):
        moved = type(op).create(
            operands=[value],
            result_types=[value.type],
            properties={**op.properties, "tensors": names([f"{op.tensors.data[0].data}/{number}"])},
        )
        _insert(moved, move, like=op)
        move.operands[number] = moved.results[0]
        made.append(moved)
    _take_over(move, op)
    for moved in made:
        _hoist(moved, store)


def _hoist_sum(op: AddOp) -> None:
    """A sum of two reshapes of one type, as rows of sequences are, is a reshape of their sum."""
    moves = [v.owner for v in op.operands]
    sources = [m.input for m in moves if isinstance(m, ReshapeOp)]
    if len(sources) != 2 or sources[0].type != sources[1].type or not _is_row(sources[0]):
        return
    name = op.tensors.data[0].data
    total = AddOp(sources[0], sources[1], tensor(sources[0]), tensors=[f"{name}/0"])
    _insert(total, op, like=op)
    last = ReshapeOp(total.result, tensor(op.result), tensors=[name])
    _insert(last, op, like=op)
    _replace(op, last.result)


def _is_row(value: SSAValue) -> bool:
    """Whether ``value`` is an image of one row: what a convolution makes of a sequence."""
    shape = shape_of(value)
    return len(shape) == 4 and shape[2] == 1


def _keeps_channels(move: ReshapeOp | IndexMapOp, store: WeightStore) -> bool:
    """Whether every element stays in its channel, the second axis."""
    shapes = [shape_of(v) for v in (*move.operands, *move.results)]
    if any(len(s) < 2 or s[:2] != shapes[-1][:2] for s in shapes):
        return False
    if isinstance(move, ReshapeOp):
        return True
    return bool(np.array_equal(_channels(whole_index(move, store), shapes[:-1]), _own_channels(shapes[-1])))


def _channels(index: Ints, shapes: Sequence[Sequence[int]]) -> Ints:
    """The channel every element of an index map comes from."""
    of_sources = np.concatenate([_own_channels(s).reshape(-1) for s in shapes])
    return of_sources[index]


def _own_channels(shape: Sequence[int]) -> Ints:
    channels = np.arange(prod(shape)) // prod(shape[2:]) % shape[1]
    return channels.reshape(shape)


def _insert(op: Operation, before: Operation, *, like: Operation) -> None:
    op.location = like.location
    block = before.parent_block()
    assert block is not None, "an operation found by walk() of a module is in a block"
    block.insert_op_before(op, before)


def _take_over(move: ReshapeOp | IndexMapOp, op: AffineOp | ReluOp | ClipOp) -> None:
    """``move`` gives what ``op`` gave, under its name."""
    move.tensors = op.tensors
    _replace(op, move.results[0])


def _replace(op: Operation, value: SSAValue) -> None:
    value.name_hint = op.results[0].name_hint
    op.results[0].replace_all_uses_with(value)
    op.detach()
    op.erase()
