"""Does a host operator treat every entry along axis 0 by itself?

Answered per operator type, and "no" for every type that is not listed: a wrong "yes" would let the
runtime mix the images of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from cimc.frontend.onnx.builder import Constant
from cimc.frontend.onnx.node import Node

Shape = tuple[int, ...]

_ELEMENTWISE = """
Abs Acos Acosh And Asin Asinh Atan Atanh BiasGelu BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast
Ceil Celu Clip Cos Cosh Div Elu Equal Erf Exp FastGelu Floor Gelu Greater GreaterOrEqual
HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not
Or PRelu Pow QuickGelu Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus
Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor Add
""".split()

_PER_IMAGE = """
AveragePool Conv ConvInteger ConvTranspose DepthToSpace GlobalAveragePool GlobalLpPool
GlobalMaxPool GroupNormalization InstanceNormalization LRN LpPool MaxPool QLinearConv SpaceToDepth
""".split()

_REDUCTIONS = """
ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
ReduceSumSquare
""".split()


@dataclass(frozen=True)
class _Case:
    """A node with the shapes of its operands and results and its constants, in order of its inputs."""

    node: Node
    operands: Mapping[str, Shape]
    results: Mapping[str, Shape]
    constants: Mapping[str, Constant]
    batch: int

    def is_value(self, position: int) -> bool:
        return self.node.input(position) in self.operands

    def shape(self, position: int) -> Shape:
        return self.operands[self.node.input(position)]

    def integers(self, position: int) -> tuple[int, ...] | None:
        """A constant operand as integers; ``None`` when absent or not constant."""
        found = self.constants.get(self.node.input(position))
        return None if found is None else tuple(int(v) for v in np.ravel(found.array))

    @property
    def rank(self) -> int:
        """Dimensions of the first result."""
        return len(next(iter(self.results.values())))

    def later_constants(self) -> bool:
        """Whether the first input is the only value."""
        return self.is_value(0) and len(self.operands) == 1


def is_batch_parallel_node(
    node: Node,
    operands: Mapping[str, Shape],
    results: Mapping[str, Shape],
    constants: Mapping[str, Constant],
) -> bool:
    """Whether entry ``i`` along axis 0 of every result needs entry ``i`` of every operand only.

    ``operands`` are the values the node reads (constants are not among them). True also promises that
    the one-node model with an open first extent runs for any number of entries.
    """
    rule = _RULES.get(node.op_type)
    shapes = [*operands.values(), *results.values()]
    if rule is None or not operands or any(not shape for shape in shapes):
        return False
    if len({shape[0] for shape in shapes}) > 1:
        return False
    return rule(_Case(node, operands, results, constants, shapes[0][0]))


def _elementwise(case: _Case) -> bool:
    for name in filter(None, case.node.proto.input):
        if name in case.operands:
            if len(case.operands[name]) != case.rank:
                return False
            continue
        shape = case.constants[name].array.shape
        if len(shape) == case.rank and shape[0] != 1:
            return False
    return True


def _quantisation(case: _Case) -> bool:
    scale = case.constants.get(case.node.input(1))
    return scale is not None and (scale.array.size == 1 or case.node.integer("axis", 1) % case.rank != 0)


def _per_image(case: _Case) -> bool:
    return case.later_constants()


def _stored_statistics(case: _Case) -> bool:
    return case.later_constants() and not case.node.integer("training_mode", 0)


def _softmax(case: _Case) -> bool:
    axis = case.node.integer("axis", -1 if case.node.opset >= 13 else 1)
    return axis % case.rank != 0


def _normalised_axes(case: _Case) -> bool:
    return case.later_constants() and case.node.integer("axis", -1) % len(case.shape(0)) != 0


def _along_axis(default: int) -> Callable[[_Case], bool]:
    def rule(case: _Case) -> bool:
        return case.later_constants() and case.node.integer("axis", default) % len(case.shape(0)) != 0

    return rule


def _concat(case: _Case) -> bool:
    all_values = all(name in case.operands for name in case.node.proto.input)
    return case.node.integer("axis", 0) % case.rank != 0 and (all_values or case.batch == 1)


def _gather(case: _Case) -> bool:
    axis = case.node.integer("axis", 0)
    if case.is_value(0) and case.is_value(1):
        return False
    return axis % len(case.shape(0)) != 0 if case.is_value(0) else axis == 0


def _transpose(case: _Case) -> bool:
    return case.node.integers("perm", range(case.rank)[::-1])[0] == 0


def _reduction(case: _Case) -> bool:
    axes = case.node.integers("axes", ()) or case.integers(1)
    return bool(axes) and case.later_constants() and all(a % len(case.shape(0)) for a in axes)


def _slice(case: _Case) -> bool:
    axes = case.node.integers("axes", ()) or case.integers(3)
    return bool(axes) and case.later_constants() and all(a % len(case.shape(0)) for a in axes)


def _pad(case: _Case) -> bool:
    pads = case.node.integers("pads", ()) or case.integers(1)
    whole = pads is not None and len(pads) == 2 * case.rank
    return case.later_constants() and whole and pads is not None and not pads[0] and not pads[case.rank]


def _resize(case: _Case) -> bool:
    if case.batch == 1:
        return case.later_constants()
    if "axes" in case.node.attributes:
        return False
    position = 1 if case.node.op_type == "Upsample" else 2
    scales = case.constants.get(case.node.input(position))
    return (
        case.later_constants()
        and scales is not None
        and scales.array.size == case.rank
        and scales.array[0] == 1
    )


def _matmul(case: _Case) -> bool:
    if case.is_value(0) and case.is_value(1):
        return len(case.shape(0)) == len(case.shape(1)) >= 3
    return (
        case.later_constants()
        and len(case.shape(0)) >= 2
        and case.constants[case.node.input(1)].array.ndim == 2
    )


def _reshape(case: _Case) -> bool:
    target = case.integers(1) or ()
    return bool(target) and (target[0] in (0, -1) or case.batch == 1)


def _axes_not_first(case: _Case) -> bool:
    axes = case.node.integers("axes", ()) or case.integers(1) or ()
    return bool(axes) and all(a % max(case.rank, len(case.shape(0))) for a in axes)


def _flatten(case: _Case) -> bool:
    return case.node.integer("axis", 1) == 1


def _expand(case: _Case) -> bool:
    target = case.integers(1)
    return target is not None and len(case.shape(0)) == case.rank and (target[0] == 1 or case.batch == 1)


_RULES: Mapping[str, Callable[[_Case], bool]] = MappingProxyType(
    {
        **dict.fromkeys(_ELEMENTWISE, _elementwise),
        **dict.fromkeys(_PER_IMAGE, _per_image),
        **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), _quantisation),
        "BatchNormalization": _stored_statistics,
        **dict.fromkeys(_REDUCTIONS, _reduction),
        **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _softmax),
        **dict.fromkeys(("LayerNormalization", "RMSNormalization", "LpNormalization"), _normalised_axes),
        **dict.fromkeys(("Split", "ArgMax", "ArgMin"), _along_axis(0)),
        "TopK": _along_axis(-1),
        "Concat": _concat,
        "Gather": _gather,
        "Transpose": _transpose,
        "Slice": _slice,
        "Pad": _pad,
        "Resize": _resize,
        "Upsample": _resize,
        "MatMul": _matmul,
        "Reshape": _reshape,
        "Squeeze": _axes_not_first,
        "Unsqueeze": _axes_not_first,
        "Flatten": _flatten,
        "Expand": _expand,
    }
)
