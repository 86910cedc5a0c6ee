"""What a host operator says of its batch is put to the test: run whole, and run image by image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper

from cimc.dialects.context import CimContext
from cimc.dialects.weights import WeightStore
from cimc.frontend.onnx import import_onnx
from cimc.interpreters.graph import run_graph
from cimc.passes.graph.fold_batch_norm import FoldBatchNorm
from cimc.passes.graph.rebind_batch import RebindBatch, is_batch_parallel

Make = Callable[..., ModelProto]
node = helper.make_node
IMAGES = 3


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


PARALLEL: list[tuple[str, list[Any], dict[str, np.ndarray], tuple[int, ...]]] = [
    ("Sigmoid", [node("Sigmoid", ["x"], ["y"])], {}, (4,)),
    ("PRelu", [node("PRelu", ["x", "k"], ["y"])], {"k": random(4)}, (4,)),
    ("Mul by an image", [node("Mul", ["x", "k"], ["y"])], {"k": random(1, 4, 5)}, (4, 5)),
    ("Mul of two", [node("Exp", ["x"], ["e"]), node("Mul", ["x", "e"], ["y"])], {}, (4,)),
    ("ConvTranspose", [node("ConvTranspose", ["x", "w"], ["y"])], {"w": random(2, 3, 3, 3)}, (2, 4, 4)),
    ("Conv of signals", [node("Conv", ["x", "w"], ["y"])], {"w": random(3, 2, 3)}, (2, 8)),
    ("LRN", [node("LRN", ["x"], ["y"], size=3)], {}, (4, 3, 3)),
    ("LogSoftmax", [node("LogSoftmax", ["x"], ["y"], axis=1)], {}, (4,)),
    ("LayerNormalization", [node("LayerNormalization", ["x", "k"], ["y"])], {"k": random(4)}, (5, 4)),
    ("Transpose", [node("Transpose", ["x"], ["y"], perm=[0, 2, 1])], {}, (4, 5)),
    ("ReduceMax", [node("ReduceMax", ["x"], ["y"], axes=[1])], {}, (4, 5)),
    ("ReduceMean", [node("ReduceMean", ["x"], ["y"], axes=[-1], keepdims=0)], {}, (4, 5)),
    ("Gather a column", [node("Gather", ["x", "i"], ["y"], axis=1)], {"i": ints(2, 0)}, (4,)),
    ("Slice", [node("Slice", ["x", "a", "b", "c"], ["y"])], {"a": ints(1), "b": ints(3), "c": ints(1)}, (4,)),
    ("Pad", [node("Pad", ["x", "p"], ["y"])], {"p": ints(0, 1, 0, 2)}, (4,)),
    ("Split", [node("Split", ["x", "s"], ["y", "z"], axis=1)], {"s": ints(1, 3)}, (4,)),
    ("MatMul of two", [node("Transpose", ["x"], ["t"], perm=[0, 2, 1]), node("MatMul", ["x", "t"], ["y"])], {}, (4, 5)),
    ("Expand", [node("Expand", ["x", "s"], ["y"])], {"s": ints(1, 2, 4)}, (1, 4)),
    (
        "Resize",
        [node("Resize", ["x", "", "s"], ["y"], mode="nearest")],
        {"s": np.array([1, 1, 2, 2], np.float32)},
        (2, 3, 3),
    ),
    (
        "BatchNormalization",
        [node("BatchNormalization", ["x", *"kkkv"], ["y"])],
        {"k": random(4), "v": random(4) ** 2},
        (4, 3, 3),
    ),
    (
        "scales of channels",
        [node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=1), node("DequantizeLinear", ["q", "s", "z"], ["y"])],
        {"s": np.array([0.1, 0.2, 0.3, 0.4], np.float32), "z": np.zeros(4, np.int8)},
        (4,),
    ),
]  # fmt: skip

MIXING: list[tuple[str, list[Any], dict[str, np.ndarray], tuple[int, ...]]] = [
    ("CumSum", [node("CumSum", ["x", "a"], ["y"])], {"a": np.array(0)}, (4,)),
    ("Softmax over images", [node("Softmax", ["x"], ["y"], axis=0)], {}, (4,)),
    ("ReduceMean over images", [node("ReduceMean", ["x"], ["m"], axes=[0]), node("Sub", ["x", "m"], ["y"])], {}, (4,)),
    ("Transpose of images", [node("Transpose", ["x"], ["y"], perm=[1, 0])], {}, (3,)),
    ("Gather of images", [node("Gather", ["x", "i"], ["y"], axis=0)], {"i": ints(2, 0, 1)}, (4,)),
    ("a term per image", [node("Add", ["x", "k"], ["y"])], {"k": random(IMAGES, 4)}, (4,)),
    (
        "scales of images",
        [node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=0), node("Cast", ["q"], ["y"], to=1)],
        {"s": np.array([0.1, 0.2, 0.3], np.float32), "z": np.zeros(3, np.int8)},
        (4,),
    ),
    ("Reshape across images", [node("Reshape", ["x", "t"], ["y"])], {"t": ints(4, 3)}, (4,)),
    ("MatMul from the left", [node("MatMul", ["k", "x"], ["y"])], {"k": random(IMAGES, IMAGES)}, (4,)),
]  # fmt: skip


def imported(model: Make, case: Any) -> tuple[Any, WeightStore]:
    _, nodes, constants, shape = case
    outputs = [name for name in nodes[-1].output if name]
    store = WeightStore()
    module = import_onnx(
        model(nodes, {"x": ["N", *shape]}, outputs, constants), shapes={"x": (IMAGES, *shape)}, store=store
    )
    FoldBatchNorm().apply(CimContext(store=store), module)
    return module, store


@pytest.mark.parametrize("case", PARALLEL, ids=lambda case: case[0])
def test_parallel_operators_give_the_same_image_by_image(model: Make, case: Any) -> None:
    """The model for one image, made by rebinding, computes each image of the batch."""
    module, store = imported(model, case)
    assert is_batch_parallel(module)
    x = np.random.default_rng(2).normal(size=(IMAGES, *case[3])).astype(np.float32)
    whole = run_graph(module, store, {"x": x})
    RebindBatch().apply(CimContext(store=store), module)
    module.verify()
    for index in range(IMAGES):
        alone = run_graph(module, store, {"x": x[index : index + 1]})
        for name, array in alone.items():
            np.testing.assert_allclose(array, whole[name][index : index + 1], rtol=0, atol=5e-6)


@pytest.mark.parametrize("case", MIXING, ids=lambda case: case[0])
def test_mixing_operators_are_not_parallel(model: Make, case: Any) -> None:
    """Whatever looks at other images, or knows how many there are, keeps its batch."""
    module, _ = imported(model, case)
    assert not is_batch_parallel(module)
