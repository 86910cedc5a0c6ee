"""Digital functions on float32 rows, by name: what ``cim.dcom`` is to codes."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import ArrayAttr, Float64Type, FloatAttr, StringAttr, TensorType, UnitAttr
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.irdl import irdl_op_definition, opt_prop_def, prop_def, result_def, traits_def, var_operand_def
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

from cimc.dialects.base import CimOperation
from cimc.dialects.cim_products import FrameProductOp
from cimc.dialects.graph_elementwise import BINARY, UNARY, float_list
from cimc.dialects.graph_rows import NORMS, REDUCTIONS
from cimc.dialects.graph_types import shape_of
from cimc.dialects.weights import WeightRefAttr

LOOKUP = "lookup"

WHOLE_ROWS = frozenset((*NORMS, *REDUCTIONS, LOOKUP, "softmax"))
"""Functions that need all channels of a position at once."""


@irdl_op_definition
class RealOp(CimOperation):
    """A function of ``graph.unary``, ``graph.binary``, ``graph.norm``, ``graph.reduce`` or a look-up, on rows.

    ``constant`` is what the graph operation holds; for a binary function the second operand (the first if
    ``swapped``), in the result's rows, each extent 1 where it does not vary.

    ```mlir
    %y = cim.real "gelu"(%x) parameters [] : (tensor<8x1x16xf32>) -> tensor<8x1x16xf32>
    ```
    """

    name = "cim.real"

    function = prop_def(StringAttr)
    args = var_operand_def(TensorType)
    parameters = prop_def(ArrayAttr[FloatAttr[Float64Type]])
    constant = opt_prop_def(WeightRefAttr)
    swapped = opt_prop_def(UnitAttr)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = (
        "$function `(` $args `)` `parameters` $parameters (`constant` $constant^)? (`swapped` $swapped^)? attr-dict "
        "`:` functional-type($args, $result)"
    )

    def __init__(
        self,
        function: str,
        args: Sequence[SSAValue],
        result: Attribute,
        *,
        parameters: Sequence[float] = (),
        constant: str | None = None,
        swapped: bool = False,
    ):
        super().__init__(
            operands=[list(args)],
            properties={
                "function": StringAttr(function),
                "parameters": float_list(parameters),
                "constant": None if constant is None else WeightRefAttr.of(constant),
                "swapped": UnitAttr() if swapped else None,
            },
            result_types=[result],
        )

    @property
    def kind(self) -> str:
        """The function's name."""
        return self.function.data

    @property
    def values(self) -> tuple[float, ...]:
        """The parameters."""
        return tuple(p.value.data for p in self.parameters)

    @property
    def keeps_channels(self) -> bool:
        """Whether a position has as many channels after as before."""
        return self.kind not in REDUCTIONS and self.kind != LOOKUP

    def verify_(self) -> None:
        if not (self.kind in UNARY or self.kind in BINARY or self.kind in WHOLE_ROWS):
            raise VerifyException(f"no function {self.kind!r}")
        wanted = 2 if self.kind in BINARY and self.constant is None else 1
        if len(self.args) != wanted:
            raise VerifyException(f"{self.kind} takes {wanted} operands, got {len(self.args)}")
        axes = 3 if self.keeps_channels else 2
        if any(shape_of(a)[:axes] != shape_of(self.result)[:axes] for a in self.args):
            raise VerifyException(f"{self.kind} keeps the rows of its operands")


def takes_whole_rows(stage: Operation) -> bool:
    """Whether some function of a stage needs all channels of a position: it cannot be cut by channels."""
    block = stage.regions[0].block
    if isinstance(block.first_op, FrameProductOp):
        return True
    return any(getattr(getattr(op, "function", None), "data", "") in WHOLE_ROWS for op in block.ops)
