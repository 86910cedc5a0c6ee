"""Convolutions over one and three dimensions, and transposed ones: as two-dimensional ones, on the arrays."""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto

from cimc.backends.registry import resolve_backend
from cimc.dialects.graph import ConvOp, IndexMapOp, ReshapeOp, main_function
from cimc.dialects.graph_types import quant_of
from cimc.dialects.weights import WeightStore
from cimc.frontend.onnx import import_onnx
from cimc.interpreters.graph import run_graph
from tests.convolutions.models_and_checks import MACHINES, Checked, Node, chain, check, node, normal


def norm(rng: np.random.Generator, channels: int) -> Node:
    """A BatchNormalization with statistics."""
    spread = 1 + np.abs(normal(rng, channels)), 1 + np.abs(normal(rng, channels))
    return node("BatchNormalization", spread[0], normal(rng, channels), normal(rng, channels), spread[1])


def sequences(seed: int = 0) -> ModelProto:
    """Four convolutions over a sequence: strided, dilated, grouped, padded unevenly, with BatchNorm and Relu."""
    rng = np.random.default_rng(seed)
    return chain(
        (1, 3, 23),
        node("Conv", normal(rng, 8, 3, 3, fan_in=9), normal(rng, 8), pads=[1, 1], strides=[2]),
        norm(rng, 8),
        node("Relu"),
        node("Conv", normal(rng, 8, 2, 3, fan_in=6), group=4, dilations=[2], pads=[2, 1]),
        norm(rng, 8),
        node("Clip", np.array(0, np.float32), np.array(2, np.float32)),
        node("Conv", normal(rng, 5, 8, 4, fan_in=32), normal(rng, 5)),
    )


def volumes(seed: int = 0) -> ModelProto:
    """Two convolutions over a volume: strides, dilations and pads in all three dimensions, groups."""
    rng = np.random.default_rng(seed)
    return chain(
        (1, 2, 5, 6, 4),
        node("Conv", normal(rng, 6, 2, 3, 3, 3, fan_in=54), normal(rng, 6), pads=[1, 1, 1, 1, 1, 1]),
        node("Relu"),
        node(
            "Conv",
            normal(rng, 4, 3, 2, 2, 2, fan_in=24),
            group=2,
            strides=[2, 2, 1],
            dilations=[2, 1, 2],
            pads=[1, 0, 1, 0, 1, 0],
        ),
    )


def upsampling(seed: int = 0) -> ModelProto:
    """A decoder: transposed convolutions of stride 2 and 3 x 1, BatchNorm and Relu between them."""
    rng = np.random.default_rng(seed)
    return chain(
        (1, 3, 5, 4),
        node("Conv", normal(rng, 6, 3, 3, 3, fan_in=27), pads=[1, 1, 1, 1]),
        node("Relu"),
        node(
            "ConvTranspose",
            normal(rng, 6, 4, 3, 3, fan_in=13),
            normal(rng, 4),
            strides=[2, 2],
            pads=[1, 1, 1, 1],
            output_padding=[1, 0],
        ),
        norm(rng, 4),
        node("Relu"),
        node("ConvTranspose", normal(rng, 4, 3, 4, 2, fan_in=10), strides=[3, 1], group=2),
    )


def pooled_sequences(seed: int = 0) -> ModelProto:
    """A small classifier of sequences: convolutions, overlapping and ragged pools, a global average."""
    rng = np.random.default_rng(seed)
    return chain(
        (1, 3, 30),
        node("Conv", normal(rng, 6, 3, 5, fan_in=15), normal(rng, 6), pads=[2, 2]),
        node("Relu"),
        node("MaxPool", kernel_shape=[3], strides=[2], ceil_mode=1),
        node("Conv", normal(rng, 8, 6, 3, fan_in=18)),
        node("AveragePool", kernel_shape=[3], pads=[1, 1], count_include_pad=0),
        node("Conv", normal(rng, 5, 8, 1, fan_in=8)),
        node("GlobalAveragePool"),
    )


def sequences_up(seed: int = 0) -> ModelProto:
    """Transposed convolutions over a sequence, the second dilated."""
    rng = np.random.default_rng(seed)
    return chain(
        (1, 4, 9),
        node("ConvTranspose", normal(rng, 4, 6, 4, fan_in=8), normal(rng, 6), strides=[2], pads=[1, 1]),
        node("Relu"),
        node("ConvTranspose", normal(rng, 6, 3, 3, fan_in=9), dilations=[2], strides=[3]),
    )


MODELS = {
    "1-D": sequences,
    "1-D with pools": pooled_sequences,
    "3-D": volumes,
    "transposed": upsampling,
    "transposed 1-D": sequences_up,
}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", MODELS)
def test_every_level_agrees(name: str, machine: str) -> None:
    """Level 1 is onnxruntime's, level 2, the mapped level and the stream are the same integers; nothing on the host."""
    assert check(MODELS[name](), MACHINES[machine]).hosts == []


def quantised_ops(checked: Checked) -> list[Any]:
    return list(main_function(checked.compiled.modules["quantised"]).body.block.ops)


def test_sequences_are_reshaped_once() -> None:
    """Reshapes between convolutions cancel, BatchNorms and activations are fused: three convolutions are left."""
    ops = quantised_ops(check(sequences(), MACHINES["isaac"]))
    assert [type(op) for op in ops if isinstance(op, ConvOp | ReshapeOp)] == [
        ReshapeOp,
        *[ConvOp] * 3,
        ReshapeOp,
    ]
    assert not any(op.name in ("graph.relu", "graph.clip", "graph.host") for op in ops)


def test_a_residual_of_sequences_stays_in_rows() -> None:
    """A sum of two sequences joins the stage of the convolution that ends the long path."""
    rng = np.random.default_rng(5)
    model = chain((1, 4, 12), node("Conv", normal(rng, 4, 4, 3, fan_in=12), pads=[1, 1]), node("Relu"))
    relu = model.graph.node[-1]
    relu.output[0] = "r"
    more = chain((1, 4, 12), node("Conv", normal(rng, 4, 4, 3, fan_in=12), pads=[1, 1]))
    conv = more.graph.node[0]
    conv.name, conv.input[0], conv.input[1], conv.output[0] = "last", "r", "late", "s"
    model.graph.node.append(conv)
    weight = more.graph.initializer[0]
    weight.name = "late"
    model.graph.initializer.append(weight)
    total = node("Add")
    model.graph.node.add(op_type=total.op_type, input=["s", "r"], output=["y"], name="sum")
    checked = check(model, MACHINES["odd"])
    assert len(checked.stages) == 2
    assert sum(isinstance(op, ReshapeOp) for op in quantised_ops(checked)) == 2


def test_phases_are_interleaved_as_codes() -> None:
    """Each phase of a stride is a convolution of its own taps; BatchNorm and Relu are in their weights and clamps.

    The kernel of 3 x 3 at stride 2 x 2 has phases of 1, 2, 2 and 4 taps. No zero is multiplied: the taps
    of all phases are the kernel's.
    """
    ops = quantised_ops(check(upsampling(), MACHINES["isaac"]))
    convs = [op for op in ops if isinstance(op, ConvOp)]
    assert [op.kernel.data for op in convs[1:5]] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert sum(int(np.prod(op.kernel.data)) for op in convs[5:]) == 4 * 2
    moves = [op for op in ops if isinstance(op, IndexMapOp)]
    assert len(moves) == 2
    assert all(quant_of(move.result) is not None for move in moves)
    assert not any(op.name in ("graph.relu", "graph.host") for op in ops)


def test_a_transposed_convolution_counts_its_own_products() -> None:
    """Every output times the taps of its phase: 10 x 8 outputs of stride 2, a kernel of 4 x 4, 4 taps each."""
    rng = np.random.default_rng(3)
    weight = normal(rng, 3, 5, 4, 4, fan_in=12)
    model = chain((1, 3, 5, 4), node("ConvTranspose", weight, strides=[2, 2], pads=[1, 1, 1, 1]))
    checked = check(model, MACHINES["puma"], frames=1)
    assert checked.run.array_macs == 10 * 8 * 5 * 4 * 3


def drawn(seed: int) -> ModelProto:
    """A Conv or ConvTranspose with drawn extents, strides, dilations, pads, groups and auto_pad.

    Every output of a ConvTranspose meets some tap: the others are the bias alone, and the host's.
    """
    rng = np.random.default_rng(seed)

    def numbers(least: int, most: int, count: int) -> list[int]:
        return [int(v) for v in rng.integers(least, most + 1, count)]

    rank = int(rng.integers(1, 4))
    transposed = rank < 3 and bool(rng.integers(0, 2))
    groups, depth, filters = int(rng.choice([1, 1, 2, 3])), int(rng.integers(1, 4)), int(rng.integers(1, 4))
    kernel, strides = numbers(1, 3, rank), numbers(1, 3, rank)
    attributes: dict[str, Any] = {"strides": strides, "group": groups}
    form = rng.integers(0, 4)
    if form == 0:
        attributes["auto_pad"] = str(rng.choice(["SAME_UPPER", "SAME_LOWER", "VALID"]))
    else:
        attributes["dilations"] = numbers(1, 2, rank)
        attributes["pads"] = [min(p, k - 1) for p, k in zip(numbers(0, 2, 2 * rank), kernel * 2, strict=True)]
    if transposed:
        gaps = attributes.get("dilations", [1] * rank)
        strides = [
            s if s <= k and gcd(s, d) == 1 else 1 for s, k, d in zip(strides, kernel, gaps, strict=True)
        ]
        attributes["strides"] = strides
    if transposed and form > 1:
        attributes["output_padding"] = [int(rng.integers(0, s)) for s in strides]
    shape = (groups * depth, filters) if transposed else (groups * filters, depth)
    weight = normal(rng, *shape, *kernel, fan_in=depth * int(np.prod(kernel)))
    one = node("ConvTranspose" if transposed else "Conv", weight, normal(rng, groups * filters), **attributes)
    return chain((1, groups * depth, *numbers(6, 9, rank)), one)


@pytest.mark.parametrize("start", range(0, 200, 40))
def test_drawn_operators_are_those_of_onnxruntime(start: int) -> None:
    """Forty drawn operators each: equal to rounding, none on the host."""
    for seed in range(start, start + 40):
        model = drawn(seed)
        shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
        x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        wanted = np.asarray(session.run(None, {"x": x})[0])
        store = WeightStore()
        module = import_onnx(model, store=store)
        found = run_graph(module, store, {"x": x})["y"]
        assert found.shape == wanted.shape, seed
        assert np.abs(found - wanted).max() <= 2e-5 * np.abs(wanted).max(), seed
        assert not any(op.name == "graph.host" for op in module.walk()), seed


@pytest.mark.parametrize("seed", range(12))
def test_drawn_operators_on_an_odd_machine(seed: int) -> None:
    """The same operators compiled: all levels agree, on arrays of 21 x 45 cells."""
    check(drawn(seed), MACHINES["odd"], within=0.2)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("machine", ["jia", "jain"])
def test_core_and_wordline_machines(machine: str, name: str) -> None:
    """One operator a core on jia, whose converters lose: the stream is the mapped level; small arrays on jain."""
    arch = resolve_backend(machine).architecture()
    assert check(MODELS[name](), arch, frames=1, within=0.1).hosts == []
