"""Small questions about SSA values that the quantise passes share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeGuard

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, BlockArgument, Operation, OpResult, SSAValue

from cimc.dialects.graph import (
    INPUTS,
    ClipOp,
    ConcatOp,
    DequantizeOp,
    IndexMapOp,
    MaxPoolOp,
    QuantizeOp,
    QuantType,
    ReluOp,
    ReshapeOp,
    StorageCastOp,
    main_function,
    main_names,
    tensor_names,
)
from cimc.dialects.graph_base import BoundedOperation
from cimc.dialects.graph_types import quant_of

PASS_THROUGH = (ReluOp, ClipOp, MaxPoolOp, ReshapeOp, ConcatOp)
"""Operators that move or select codes and never make new ones (docs/numerics.md section 0 rule 8)."""


def passes_codes(owner: Operation | Block) -> TypeGuard[Operation]:
    """Whether ``owner`` gives out codes that it was given and no others: :data:`PASS_THROUGH`, and a move.

    A move that puts constants between the elements works on real values.
    """
    if isinstance(owner, IndexMapOp):
        return owner.constant is None
    return isinstance(owner, PASS_THROUGH)


def value_names(module: ModuleOp) -> Mapping[SSAValue, str]:
    """The ONNX name of every argument of ``@main`` and of every result in it."""
    main = main_function(module)
    named: dict[SSAValue, str] = dict(zip(main.args, main_names(module, INPUTS), strict=True))
    for op in main.body.block.ops:
        named.update(zip(op.results, tensor_names(op), strict=False))
    return named


def sole_user(value: SSAValue) -> Operation | None:
    """The operation of the only use of ``value``, if it has exactly one."""
    return value.get_user_of_unique_use()


def coded_as(value: SSAValue) -> tuple[QuantizeOp, ...]:
    """The ``graph.quantize`` operations that use ``value``, when they are its only uses and agree in type."""
    users = [use.operation for use in value.uses]
    quantizers = [user for user in users if isinstance(user, QuantizeOp)]
    if not users or len(quantizers) != len(users):
        return ()
    if any(
        q.result.type != quantizers[0].result.type or q.clamp() != quantizers[0].clamp() for q in quantizers
    ):
        return ()
    return tuple(quantizers)


def code_type(value: SSAValue) -> QuantType:
    """The codes ``value`` holds. Raises ValueError when it holds none."""
    codes = quant_of(value)
    if codes is None:
        raise ValueError(f"{value} holds no codes")
    return codes


def bounds(op: BoundedOperation) -> tuple[int | None, int | None]:
    """The clamp of ``op`` as written: ``None`` where the range of the type holds."""
    return (
        None if op.lo is None else op.lo.value.data,
        None if op.hi is None else op.hi.value.data,
    )


def insert_after(value: SSAValue, op: Operation) -> None:
    """Place ``op`` right behind the definition of ``value``, with its location."""
    if isinstance(value, OpResult):
        block = value.op.parent_block()
        assert block is not None
        block.insert_op_after(op, value.op)
        op.location = value.op.location
        return
    assert isinstance(value, BlockArgument)
    first = value.block.first_op
    assert first is not None
    value.block.insert_op_before(op, first)


def insert_before(anchor: Operation, op: Operation) -> None:
    """Place ``op`` right before ``anchor``, with its location."""
    block = anchor.parent_block()
    assert block is not None
    block.insert_op_before(op, anchor)
    op.location = anchor.location


def erase(op: Operation) -> None:
    """Take ``op``, whose results nobody uses, out of the program."""
    op.detach()
    op.erase()


def replace(op: Operation, new: Operation) -> None:
    """Put ``new`` where ``op`` was, with its location; its results serve the uses of ``op``."""
    insert_before(op, new)
    for old, result in zip(op.results, new.results, strict=True):
        old.replace_all_uses_with(result)
    erase(op)


def erase_unused_conversions(module: ModuleOp) -> None:
    """Remove ``graph.quantize``, ``graph.dequantize`` and ``graph.storage_cast`` whose results nobody uses."""
    for op in reversed(tuple(main_function(module).body.block.ops)):
        if isinstance(op, QuantizeOp | DequantizeOp | StorageCastOp) and op.result.first_use is None:
            erase(op)


def operations(module: ModuleOp) -> Iterable[Operation]:
    """The operations of ``@main`` as they stand now, safe to change while walking."""
    return tuple(main_function(module).body.block.ops)
