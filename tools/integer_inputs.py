"""Networks whose input is unsigned 8-bit integers, as cameras give them: a ``DequantizeLinear`` in front of all else.

    python -m tools.integer_inputs resnet-18.onnx resnet-18-u8.onnx

The codes go to the arrays as they are; a float32 input takes four times the bytes on the host link and in the global
buffer, and the chip's digital unit to make codes of it (docs/onnx.md, Integers at the border).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

SCALE, ZERO_POINT = 1 / 32, 128
"""Of the codes: reals from -4 to 4, which hold what normalised images have."""


def with_integer_input(model: ModelProto) -> ModelProto:
    """The model with its first input given as uint8 codes; the model itself is changed."""
    graph = model.graph
    given = graph.input[0]
    real, scale, zero = (f"{given.name}_{part}" for part in ("real", "scale", "zero_point"))
    given.type.tensor_type.elem_type = TensorProto.UINT8
    for one in graph.node:
        for place, name in enumerate(one.input):
            if name == given.name:
                one.input[place] = real
    graph.initializer.append(numpy_helper.from_array(np.array(SCALE, np.float32), scale))
    graph.initializer.append(numpy_helper.from_array(np.array(ZERO_POINT, np.uint8), zero))
    graph.node.insert(0, helper.make_node("DequantizeLinear", [given.name, scale, zero], [real], name=real))
    onnx.checker.check_model(model)
    return model


def main(arguments: list[str]) -> int:
    """Read one file, write the other."""
    if len(arguments) != 2:
        print("usage: python -m tools.integer_inputs MODEL.onnx RESULT.onnx", file=sys.stderr)
        return 2
    source, result = map(Path, arguments)
    onnx.save(with_integer_input(onnx.load(source)), result)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
