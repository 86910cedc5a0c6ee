"""Which values go to operators that work on images."""

from __future__ import annotations

from xdsl.dialects.func import ReturnOp
from xdsl.ir import SSAValue

from cimc.dialects import graph
from cimc.dialects.graph_types import shape_of
from cimc.passes.schedule.stages import ELEMENTWISE

_POINTWISE = (*ELEMENTWISE, graph.StorageCastOp)


def wants_image(value: SSAValue) -> bool:
    """Whether an operator that works on images, or the outside, takes ``value``, maybe after others of each element."""
    for use in value.uses:
        match use.operation:
            case (
                graph.ConvOp() | graph.MaxPoolOp() | graph.AveragePoolOp() | graph.GlobalAveragePoolOp()
                | graph.HostOp() | graph.ConcatOp() | ReturnOp()
            ):  # fmt: skip
                return True
            case graph.NormOp(constant=None):
                return True
            case graph.SoftmaxOp() as softmax if softmax.axis.value.data != len(shape_of(value)) - 1:
                return True
            case operation if isinstance(operation, _POINTWISE) and wants_image(operation.results[0]):
                return True
            case _:
                pass
    return False
