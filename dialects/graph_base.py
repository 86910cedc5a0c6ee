"""What the operations of the ``graph`` dialect share: names of tensors, clamps, window arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import I64, ArrayAttr, IntegerAttr, StringAttr, i64
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.irdl import opt_prop_def, prop_def, traits_def
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

from cimc.dialects.base import CimOperation
from cimc.dialects.graph_types import IntsAttr, QuantType, is_float, quant_of, tensor
from cimc.dialects.weights import WeightRefAttr


class GraphOperation(CimOperation):
    """An operator of the network. ``tensors`` holds the ONNX names of the results, for taps."""

    tensors = prop_def(ArrayAttr[StringAttr])

    traits = traits_def(Pure())

    def verify_(self) -> None:
        if len(self.tensors) != len(self.results):
            raise VerifyException(f"{len(self.results)} results but {len(self.tensors)} tensor names")
        self.verify_operator()

    def verify_operator(self) -> None:
        """The operator's own rules; raises ``VerifyException``."""


class BoundedOperation(GraphOperation):
    """An operator whose output codes may be clamped to ``lo .. hi`` (a fused Relu or Clip).

    Both bounds are given or neither; without them the range of the result's type holds
    (docs/numerics.md section 0 rule 5).
    """

    lo = opt_prop_def(IntegerAttr[I64])
    hi = opt_prop_def(IntegerAttr[I64])

    def clamp(self) -> tuple[int, int]:
        """Least and greatest output code. Raises ``ValueError`` when the result holds no codes."""
        codes = quant_of(self.results[0])
        if codes is None:
            raise ValueError(f"{self.name} has no codes to clamp")
        if self.lo is None or self.hi is None:
            return codes.qmin, codes.qmax
        return self.lo.value.data, self.hi.value.data

    def verify_(self) -> None:
        super().verify_()
        if (self.lo is None) != (self.hi is None):
            raise VerifyException("lo and hi come together")
        if self.lo is None or self.hi is None:
            return
        codes = quant_of(self.results[0])
        if codes is None:
            raise VerifyException("lo and hi clamp codes, but the result is not quantised")
        low, high = self.lo.value.data, self.hi.value.data
        if not codes.qmin <= low <= high <= codes.qmax:
            raise VerifyException(f"clamp {low} .. {high} is not within {codes.qmin} .. {codes.qmax}")


def names(tensors: Sequence[str]) -> ArrayAttr[StringAttr]:
    """The ``tensors`` property."""
    return ArrayAttr([StringAttr(t) for t in tensors])


def int64(value: int | None) -> IntegerAttr[I64] | None:
    """An ``i64`` attribute, or nothing."""
    return None if value is None else IntegerAttr(value, i64)


def ref(key: str | None) -> WeightRefAttr | None:
    """A reference into the weight store, or nothing."""
    return None if key is None else WeightRefAttr.of(key)


def tensor_names(op: Operation) -> tuple[str, ...]:
    """The ONNX names of the results of ``op``; empty for operations that have none."""
    if not isinstance(op, GraphOperation):
        return ()
    return tuple(name.data for name in op.tensors)


def window_extents(
    extents: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
) -> tuple[int, ...]:
    """Output height and width of a sliding window (floor division; ceil mode is folded into ``pads``).

    ``pads`` are in ONNX order: top, left, bottom, right.
    """
    return tuple(
        (extents[a] + pads[a] + pads[a + 2] - dilations[a] * (kernel[a] - 1) - 1) // strides[a] + 1
        for a in range(2)
    )


def check_window(
    given: tuple[int, ...],
    result: tuple[int, ...],
    kernel: IntsAttr,
    strides: IntsAttr,
    pads: IntsAttr,
    dilations: IntsAttr,
) -> None:
    """Height and width of a window operator: lengths, signs, and the result's extents."""
    if len(given) != 4 or len(result) != 4:
        raise VerifyException(f"works on images (N, C, H, W), got {given} to {result}")
    for name, attr, length, least in (
        ("kernel", kernel, 2, 1),
        ("strides", strides, 2, 1),
        ("dilations", dilations, 2, 1),
        ("pads", pads, 4, 0),
    ):
        if len(attr.data) != length or min(attr.data) < least:
            raise VerifyException(f"{name} needs {length} values of at least {least}, got {attr.data}")
    expected = window_extents(given[2:], kernel.data, strides.data, pads.data, dilations.data)
    if min(expected) < 1:
        raise VerifyException(
            f"kernel {kernel.data} dilated by {dilations.data} is larger than the padded input {given[2:]}"
        )
    if result[2:] != expected:
        raise VerifyException(f"result has height and width {result[2:]}, the windows give {expected}")


def check_same_elements(values: Sequence[SSAValue]) -> None:
    """All values are float32, or all are codes of one type: codes pass unchanged."""
    first = tensor(values[0]).get_element_type()
    if not is_float(values[0]) and not isinstance(first, QuantType):
        raise VerifyException(f"elements are f32 or codes, not {first}")
    for value in values[1:]:
        element = tensor(value).get_element_type()
        if element != first:
            raise VerifyException(f"codes pass unchanged, but elements are {first} and {element}")


def check_same_kind(values: Sequence[SSAValue]) -> None:
    """All values are float32, or all are codes, each with its own scale."""
    kinds = {kind_of(tensor(value).get_element_type()) for value in values}
    if len(kinds) > 1:
        raise VerifyException("operands and result are all f32 or all codes, not mixed")


def kind_of(element: Attribute) -> str:
    """``codes`` or ``f32``. Raises ``VerifyException`` for other elements."""
    if isinstance(element, QuantType):
        return "codes"
    if str(element) == "f32":
        return "f32"
    raise VerifyException(f"elements are f32 or codes, not {element}")
