"""Elements in other places: whatever Transpose, Slice, Pad, Expand, Gather by constants and Resize do."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import TensorType, UnitAttr
from xdsl.ir import SSAValue
from xdsl.irdl import irdl_op_definition, opt_prop_def, prop_def, result_def, var_operand_def
from xdsl.utils.exceptions import VerifyException

from cimc.dialects.graph_base import GraphOperation, check_same_elements, names, ref
from cimc.dialects.graph_types import AnyTensor, quant_of, shape_of, tensor
from cimc.dialects.weights import WeightRefAttr


@irdl_op_definition
class IndexMapOp(GraphOperation):
    """Every element of the result is one element of an operand or of a constant; codes pass unchanged.

    ``index`` (int64, in the result's shape) numbers the elements of all operands in ONNX order, one operand after
    the other, then those of ``constant`` (float32, flat). ``per_frame``: operands and result have the
    batch as their first axis, and ``index`` holds one entry of it.

    ```mlir
    %y = graph.index_map %x index <"transpose.index"> per_frame tensors ["y"]
        : (tensor<1x8x4xf32>) -> tensor<1x4x8xf32>
    ```
    """

    name = "graph.index_map"

    inputs = var_operand_def(TensorType)
    index = prop_def(WeightRefAttr)
    constant = opt_prop_def(WeightRefAttr)
    per_frame = opt_prop_def(UnitAttr)
    result = result_def(TensorType)
    assembly_format = (
        "$inputs `index` $index (`constant` $constant^)? (`per_frame` $per_frame^)? `tensors` $tensors attr-dict "
        "`:` functional-type(operands, results)"
    )

    def __init__(
        self,
        inputs: Sequence[SSAValue],
        result: AnyTensor,
        *,
        index: str,
        constant: str | None = None,
        per_frame: bool,
        tensors: Sequence[str],
    ):
        super().__init__(
            operands=[inputs],
            result_types=[result],
            properties={
                "index": ref(index),
                "constant": ref(constant),
                "per_frame": UnitAttr() if per_frame else None,
                "tensors": names(tensors),
            },
        )

    def verify_operator(self) -> None:
        if not self.inputs:
            raise VerifyException("needs at least one operand")
        elements = {tensor(v).get_element_type() for v in (*self.inputs, self.result)}
        if len(elements) > 1 or quant_of(self.result) is not None:
            check_same_elements([*self.inputs, self.result])
        if self.constant is not None and str(tensor(self.result).get_element_type()) != "f32":
            raise VerifyException("a constant is f32, as the elements beside it must be")
        if self.per_frame is not None and len({shape_of(v)[:1] for v in (*self.inputs, self.result)}) > 1:
            raise VerifyException("per_frame, but operands and result differ in their first extent")
