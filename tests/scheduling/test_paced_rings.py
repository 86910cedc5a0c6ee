"""Ring depths from the pace of the slowest stage: against plain events, and deeper rings in the cycle engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import cimc
from cimc.mapping_options import MappingOptions
from cimc.passes.place.pace import IMAGES, places_in_use
from cimc.runtime.cycle import simulate
from cimc.runtime.program import BufferKind
from cimc.runtime.program.geometry import ring_geometry

Ints = npt.NDArray[np.integer[Any]]


@given(
    st.data(), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(3, 9), st.integers(1, 3)
)
@settings(max_examples=150, deadline=None)
def test_places_in_use_are_counted(
    data: st.DataObject, kernel: int, stride: int, pad: int, rows: int, copies: int
) -> None:
    """Against a walk over all cycles: places taken by sent rows, padding between them included, less those freed."""
    turns = (rows + 2 * pad - kernel) // stride + 1
    if turns < copies:
        return
    g = ring_geometry(kernel, stride, 1, pad, rows, turns, data.draw(st.integers(0, copies - 1)), copies)
    gaps = st.integers(1, 9)
    sent = np.cumsum([data.draw(gaps) for _ in range(IMAGES * rows)]).astype(float)
    freed = np.cumsum([data.draw(gaps) for _ in range(IMAGES * g.turns)]).astype(float)
    frees = sorted(
        [(freed[i * g.turns + t], g.advance) for i in range(IMAGES) for t in range(g.turns)]
        + [(freed[i * g.turns + g.turns - 1], g.window - g.advance) for i in range(IMAGES)]
    )
    most = 1
    for image in range(IMAGES):
        for row in range(rows):
            place = g.place(row)
            if place is not None:
                at = sent[image * rows + row]
                gone = sum(count for when, count in frees if when <= at)
                most = max(most, image * g.places + place + 1 - gone)
    assert places_in_use(g, freed, sent) == most


def long_and_short() -> onnx.ModelProto:
    """Tall, narrow images, of which copies take whole rows: four convolutions, and an Add with what they began with."""
    rng = np.random.default_rng(2)
    weights: dict[str, np.ndarray] = {}
    nodes: list[onnx.NodeProto] = []

    def conv(name: str, source: str, channels: int) -> str:
        weights[f"{name}.w"] = rng.normal(size=(8, channels, 3, 3)).astype(np.float32)
        nodes.append(helper.make_node("Conv", [source, f"{name}.w"], [f"{name}.c"], name, pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"{name}.c"], [name]))
        return name

    start = at = conv("stem", "x", 3)
    for i in range(4):
        at = conv(f"long{i}", at, 8)
    nodes.append(helper.make_node("MaxPool", [start], ["short"], "pool", kernel_shape=[1, 1]))
    nodes.append(helper.make_node("Concat", [at, "short"], ["both"], axis=1))
    nodes.append(helper.make_node("MaxPool", ["both"], ["y"], "end", kernel_shape=[2, 1], strides=[2, 1]))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 3, 64, 2]), ("y", [1, 16, 32, 2]))
    ]
    stored = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "long and short", ends[:1], ends[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return model


def test_the_short_path_never_stalls_the_long_one() -> None:
    """Mean distance of images: within a fifth of that with rings of any depth, and less than half of that with a window
    and two advances each."""
    x = {"x": np.random.default_rng(1).normal(size=(1, 3, 64, 2)).astype(np.float32)}
    program = cimc.compile(
        long_and_short(), "isaac", calibration=x, mapping=MappingOptions(copies=16)
    ).program
    buffers = program["buffers"]

    def distance(slots: Ints) -> float:
        """Cycles an image, of the last twelve of 24, with other slots of the rings."""
        changed = {**buffers, "slots": np.where(buffers["kind"] == BufferKind.RING, slots, buffers["slots"])}
        ends = simulate(
            replace(program, tables={**program.tables, "buffers": changed}), images=24, resident_weights=True
        ).image_end_cycles
        return float(ends[-1] - ends[11]) / 12

    found = distance(buffers["slots"])
    assert found <= 1.2 * min(distance(buffers["slots"] * n) for n in (2, 4, 8))
    assert distance(np.minimum(buffers["slots"], 3 + 2 * buffers["advance"])) > 2 * found
