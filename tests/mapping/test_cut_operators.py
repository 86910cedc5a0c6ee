"""Operators larger than the chip: how they are cut into phases, and that the stream stays exact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import cimc
from tests.mapping.small_machine import small_machine


@pytest.mark.parametrize(
    ("row_tiles", "phases"),
    [
        (
            5,
            3 + 1,
        ),  # 5 rows of tiles x 6 columns on 8 crossbars: three phases of 4 x 2, one of 1 x 6 (even: six)
        (9, 6 + 1),  # six phases of 8 x 1, one of 1 x 6 (even: twelve, a chunk of 5 or 4 each)
        (8, 6),  # nothing is left over
    ],
)
def test_chunks_fill_the_crossbars_of_a_core(tmp_path: Path, row_tiles: int, phases: int) -> None:
    """The fewest phases by hand, and every integer of the stream equal to level 2."""
    rng = np.random.default_rng(row_tiles)
    channels = 16 * row_tiles
    weight = rng.normal(size=(24, channels, 1, 1)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, 3, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 24, 3, 3])
    graph = helper.make_graph([node], "net", [x], [y], [numpy_helper.from_array(weight, "w")])
    path = tmp_path / "conv.onnx"
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)]), path)
    arch = small_machine(cores=1, crossbars=8, contexts=8, parallel_rows=8, allow_writes=True)
    data = {"x": rng.normal(size=(2, channels, 3, 3)).astype(np.float32)}
    artifact = cimc.compile(path, arch, calibration=data)
    assert artifact.report["utilisation"]["phases"] == phases
    stream, level = artifact.run(data), artifact.run(data, engine="quantised")
    for name, codes in level.integer_outputs.items():
        assert np.array_equal(stream.integer_outputs[name], codes)
