"""Products whose rows are spread over more crossbars than they need stay exact at every level."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import cimc
from cimc.dialects.cim import StageOp


@pytest.mark.parametrize(("rows", "tiles"), [(576, 6), (200, 2)])
def test_spread_tiles_run(rows: int, tiles: int) -> None:
    """576 rows are 6 tiles of 96 instead of 5 of up to 128, 200 rows 2 of 104: the levels agree on every code."""
    rng = np.random.default_rng(rows)
    weight = numpy_helper.from_array(rng.normal(size=(rows, 40)).astype(np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"], name="fc")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 40])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    x = rng.normal(size=(4, rows)).astype(np.float32)
    made = cimc.compile(model, "isaac", calibration={"x": x}, scheduler="none")
    module, _ = made.level("mapped")
    (grid,) = (op.write.grid.data for op in module.walk() if isinstance(op, StageOp) and op.write is not None)
    assert grid == (tiles, 2)
    found = {engine: made.run({"x": x}, engine=engine) for engine in ("program", "mapped", "quantised")}
    codes = {engine: run.integer_outputs["y"] for engine, run in found.items()}
    assert len(np.unique(codes["quantised"])) > 16
    np.testing.assert_array_equal(codes["program"], codes["quantised"])
    np.testing.assert_array_equal(codes["mapped"], codes["quantised"])
