"""Where stages end, and how they are cut when rows that wait in their rings outgrow a core."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

import cimc
from cimc.backends.schema import Architecture
from cimc.dialects.cim import StageOp
from cimc.dialects.graph_types import quant_of
from cimc.runtime.program import Element
from cimc.runtime.verifier import verify_program
from tests.mapping.small_machine import small_machine


def _model(
    nodes: Sequence[NodeProto], weights: dict[str, tuple[int, ...]], side: int, outputs: dict[str, int]
) -> ModelProto:
    """A model of ``nodes`` on 4 x side x side images; ``outputs``: channels by name."""
    rng = np.random.default_rng(3)
    stored = [
        numpy_helper.from_array(rng.uniform(0.2, 1, s).astype(np.float32), n) for n, s in weights.items()
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, side, side])
    made = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, side, side]) for n, c in outputs.items()
    ]
    graph = helper.make_graph(list(nodes), "net", [given], made, stored)
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])


def _conv(name: str, source: str, target: str, kernel: int = 3) -> NodeProto:
    pad = kernel // 2
    return helper.make_node(
        "Conv", [source, f"{name}.w"], [target], name, kernel_shape=[kernel] * 2, pads=[pad] * 4
    )


def _compiled(model: ModelProto, arch: Architecture, side: int) -> cimc.Artifact:
    """Compiled; the stream equals level 2 on two images, and the verifier finds nothing."""
    x = np.random.default_rng(5).normal(size=(8, 4, side, side)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = cimc.compile(model, arch, calibration={"x": x})
    assert verify_program(made.program) == []
    stream, level_2 = made.run({"x": x[:2]}), made.run({"x": x[:2]}, engine="quantised")
    assert stream.integer_outputs.keys() == level_2.integer_outputs.keys()
    for name, values in level_2.outputs.items():
        np.testing.assert_array_equal(stream.outputs[name], values)
    assert stream.array_macs == stream.total_macs > 0
    return made


def test_an_output_that_the_model_reads_on_leaves_as_codes() -> None:
    """The reals of an output feed another operator: the output is codes all the same, and their stage ends there."""
    nodes = [_conv("c0", "x", "y"), helper.make_node("Tanh", ["y"], ["z"], "tanh")]
    model = _model(nodes, {"c0.w": (4, 4, 3, 3)}, 6, {"y": 4, "z": 4})
    made = _compiled(model, small_machine(cores=16, crossbars=16), 6)
    codes = made.run({"x": np.ones((1, 4, 6, 6), np.float32)}).integer_outputs
    assert codes["y"].dtype == np.uint8


def test_a_normalisation_over_channels_takes_codes() -> None:
    """Rows on their way to an LRN are codes, a quarter of the reals; the stage that makes them does not widen them."""
    nodes = [
        _conv("c0", "x", "a"),
        helper.make_node("LRN", ["a"], ["b"], "lrn", size=3, alpha=0.3),
        _conv("c1", "b", "y"),
    ]
    model = _model(nodes, {"c0.w": (8, 4, 3, 3), "c1.w": (4, 8, 3, 3)}, 6, {"y": 4})
    made = _compiled(model, small_machine(cores=16, crossbars=16), 6)
    module, _ = made._parts.level("mapped")  # pyright: ignore[reportPrivateUsage]: the level itself is looked at
    stages = {op.label.data: op for op in module.walk() if isinstance(op, StageOp)}
    assert quant_of(stages["lrn"].sources[0]) is not None
    assert quant_of(stages["lrn"].result) is not None


def _dense(side: int) -> ModelProto:
    """A concatenation of the first and the last of seven convolutions, then a factor per channel, as in DenseNet."""
    nodes = [_conv("c0", "x", "t0")]
    weights: dict[str, tuple[int, ...]] = {"c0.w": (16, 4, 3, 3)}
    for number in range(1, 7):
        nodes.append(_conv(f"c{number}", f"t{number - 1}", f"t{number}", kernel=7))
        weights[f"c{number}.w"] = (4, 16 if number == 1 else 4, 7, 7)
    nodes += [
        helper.make_node("Concat", ["t0", "t6"], ["cat"], "cat", axis=1),
        helper.make_node("Mul", ["cat", "f"], ["m"], "mul"),
        helper.make_node("Relu", ["m"], ["r"], "relu"),
        _conv("last", "r", "y", kernel=1),
    ]
    weights |= {"f": (1, 20, 1, 1), "last.w": (4, 20, 1, 1)}
    return _model(nodes, weights, side, {"y": 4})


@pytest.mark.parametrize(("local_buffer_bytes", "blocks"), [(131072, 1), (9600, 2)])
def test_a_digital_stage_is_cut_until_waiting_rows_fit(local_buffer_bytes: int, blocks: int) -> None:
    """Rows of the short path wait for the long one in the ring of the digital stage; where a core cannot hold them
    the stage has more contexts with fewer channels, and no core is overfilled."""
    arch = small_machine(cores=64, crossbars=16, rows=64, columns=64, local_buffer_bytes=local_buffer_bytes)
    made = _compiled(_dense(24), arch, 24)
    names = [made.program.names[i] for i in made.program["contexts"]["node"]]
    assert names.count("mul") == blocks
    buffers = {name: column.tolist() for name, column in made.program["buffers"].items()}
    for core, base, slots, pitch, element in zip(
        *(buffers[name] for name in ("core", "base", "slots", "pitch", "element")), strict=True
    ):
        assert core < 0 or base + slots * pitch * Element(element).size_bytes <= local_buffer_bytes
