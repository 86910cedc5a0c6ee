"""Which operations of level 2 form one stage: an array or windowed operator with its elementwise tail."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from xdsl.dialects.func import ReturnOp
from xdsl.ir import Operation, OpResult, SSAValue

from cimc.dialects.graph import (
    AddOp,
    AveragePoolOp,
    BinaryConstantOp,
    BinaryOp,
    ClipOp,
    ConvOp,
    DequantizeOp,
    GemmOp,
    GlobalAveragePoolOp,
    LookupOp,
    MatmulOp,
    MaxPoolOp,
    NormOp,
    QuantizeOp,
    ReduceOp,
    ReluOp,
    RequantizeOp,
    SoftmaxOp,
    UnaryOp,
)
from cimc.dialects.graph_types import quant_of, shape_of

HEADS = (ConvOp, GemmOp, MaxPoolOp, AveragePoolOp, GlobalAveragePoolOp, SoftmaxOp, NormOp, ReduceOp, LookupOp)
"""Operators that need more than their own element: they start a stage."""

REAL = (UnaryOp, BinaryOp, BinaryConstantOp)
"""Float32 functions of each element."""

CONVERSIONS = (QuantizeOp, DequantizeOp, RequantizeOp)
"""Between codes and reals: no operator of the model, so that a stage is named after another of its operations."""

ELEMENTWISE = (AddOp, ReluOp, ClipOp, *CONVERSIONS, *REAL)
"""Operators that work on each element alone: they join the stage that produces their operand."""


@dataclass
class Group:
    """The operations of one stage, in order."""

    ops: list[Operation] = field(default_factory=list[Operation])

    @property
    def last(self) -> Operation:
        """The operation whose result the stage delivers."""
        return self.ops[-1]


def group_stages(
    ops: Sequence[Operation], *, absorbed: set[Operation], products: Collection[MatmulOp] = ()
) -> dict[Operation, Group]:
    """Assign every head and elementwise operation of ``ops`` (in order) to a group.

    ``products``: the products of two activations that are stages; a softmax of their rows joins them.
    An elementwise operation joins the latest group that ends in one of its operands, if nothing else uses that
    operand: the stage that ends the long path takes the other operand through a ring of its own. ``absorbed``
    operations belong to the model's inputs and outputs and start no stage.
    """
    position = {op: index for index, op in enumerate(ops)}
    groups: dict[Operation, Group] = {}
    for op in ops:
        if op in absorbed:
            continue
        if isinstance(op, SoftmaxOp) and (rows := _product_rows(op, groups)) is not None:
            rows.ops.append(op)
            groups[op] = rows
        elif isinstance(op, HEADS) or op in products:
            groups[op] = Group([*_own_dequantiser(op, groups), op])
            groups |= dict.fromkeys(groups[op].ops, groups[op])
        elif isinstance(op, ELEMENTWISE):
            group = (None if _is_output(op) else _joinable(op, groups, position)) or Group()
            group.ops.append(op)
            groups[op] = group
    return groups


def _product_rows(op: SoftmaxOp, groups: dict[Operation, Group]) -> Group | None:
    """The group of a product of two activations that ends in the rows a softmax alone takes; ``None`` for another."""
    source = op.input.owner
    if not isinstance(source, Operation) or source not in groups or users(op.input) != 1:
        return None
    group = groups[source]
    last_axis = op.axis.value.data == len(shape_of(op.input)) - 1
    return group if last_axis and group.last is source and isinstance(group.ops[0], MatmulOp) else None


def _own_dequantiser(op: Operation, groups: dict[Operation, Group]) -> list[Operation]:
    """The dequantiser that a normalisation over channels takes over: codes in its ring are a quarter of the reals."""
    source = op.operands[0].owner
    if not isinstance(op, NormOp) or op.constant is not None or not isinstance(source, DequantizeOp):
        return []
    if source not in groups or groups[source].last is not source or users(source.result) != 1:
        return []
    groups[source].ops.remove(source)
    return [source]


def _joinable(op: Operation, groups: dict[Operation, Group], position: dict[Operation, int]) -> Group | None:
    found: Group | None = None
    for operand in op.operands:
        if not isinstance(operand, OpResult) or operand.op not in groups or users(operand) != 1:
            continue
        group = groups[operand.op]
        if group.last is not operand.op:
            continue
        if found is None or position[group.last] > position[found.last]:
            found = group
    return found


def _is_output(op: Operation) -> bool:
    """Whether ``op`` makes reals that an output has too: it leaves as the codes, so their stage must end with them."""
    return isinstance(op, DequantizeOp) and any(isinstance(u.operation, ReturnOp) for u in op.result.uses)


def users(value: SSAValue) -> int:
    """Number of uses of a value."""
    return len(list(value.uses))


def absorbed_borders(ops: Sequence[Operation]) -> set[Operation]:
    """Quantisers of model inputs and dequantisers of model outputs: the chip's I/O does their work.

    A quantiser of an input runs on the chip's digital unit as rows come in, if it is the input's only user and
    clamps to all codes (no Relu or Clip is fused into it); codes of an output leave with their scale in the I/O table.
    """
    found: set[Operation] = set()
    for op in ops:
        if isinstance(op, QuantizeOp) and not isinstance(op.input, OpResult) and users(op.input) == 1:
            codes = quant_of(op.result)
            if codes is not None and op.clamp() == (codes.qmin, codes.qmax):
                found.add(op)
        if isinstance(op, DequantizeOp) and all(isinstance(u.operation, ReturnOp) for u in op.result.uses):
            found.add(op)
    return found
