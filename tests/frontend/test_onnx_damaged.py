"""Damaged files: whatever bytes change, the answer is a module or one clear error, never a crash."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper

from cimc.diagnostics import CimError, UnsupportedError
from cimc.dialects.weights import WeightStore
from cimc.frontend.onnx import import_onnx

Make = Callable[..., ModelProto]
node = helper.make_node


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def whole_model(model: Make) -> ModelProto:
    """Every converter at least once, so that a damaged attribute of each is met."""
    nodes = [
        node("Pad", ["x", "pads"], ["xp"]),
        node("Conv", ["xp", "w", "b"], ["c"], strides=[1, 1], name="conv"),
        node("BatchNormalization", ["c", "b", "b", "b", "v"], ["n"], epsilon=1e-3),
        node("Relu", ["n"], ["r"]),
        node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        node("Shape", ["p"], ["s"]),
        node("Gather", ["s", "zero"], ["s0"]),
        node("Concat", ["s0", "rest"], ["t"], axis=0),
        node("Reshape", ["p", "t"], ["f"]),
        node("Gemm", ["f", "fw", "fb"], ["g"], transB=1, alpha=0.5),
        node("Softmax", ["g"], ["y"], axis=-1),
        node("Sigmoid", ["p"], ["q"]),
        node("Concat", ["p", "q"], ["pq"], axis=1),
        node("AveragePool", ["pq"], ["a"], kernel_shape=[2, 2]),
        node("ReduceMean", ["a"], ["z"], axes=[2, 3], keepdims=0),
    ]
    constants = {
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "w": random(4, 3, 3, 3), "b": random(4), "v": random(4) ** 2,
        "zero": np.array([0]), "rest": np.array([-1]), "fw": random(5, 36), "fb": random(5),
    }  # fmt: skip
    return model(nodes, {"x": ["N", 3, 6, 6]}, ["y", "z"], constants)


@pytest.mark.parametrize("seed", range(4))
def test_changed_bytes_never_crash(model: Make, tmp_path: Path, seed: int) -> None:
    """150 files with up to three changed bytes each; both outcomes occur, nothing else does."""
    raw = whole_model(model).SerializeToString()
    rng = np.random.default_rng(seed)
    path = tmp_path / "m.onnx"
    outcomes = {"module": 0, "error": 0}
    for _ in range(150):
        changed = bytearray(raw)
        for _ in range(int(rng.integers(1, 4))):
            changed[int(rng.integers(len(raw)))] = int(rng.integers(256))
        path.write_bytes(changed)
        try:
            import_onnx(path, shapes={"x": (1, 3, 6, 6)}, store=WeightStore()).verify()
            outcomes["module"] += 1
        except CimError:
            outcomes["error"] += 1
    assert min(outcomes.values()) > 10


def test_cut_files_never_crash(model: Make, tmp_path: Path) -> None:
    """A download that stopped, at every length."""
    raw = whole_model(model).SerializeToString()
    path = tmp_path / "m.onnx"
    for length in range(0, len(raw) - 1, 17):
        path.write_bytes(raw[:length])
        with pytest.raises(CimError):
            import_onnx(path, shapes={"x": (1, 3, 6, 6)}, store=WeightStore())


@pytest.mark.parametrize(
    ("proto", "expected"),
    [
        (
            node("MaxPool", ["x"], ["y"], name="p"),
            "p (model:0): MaxPool: Required attribute 'kernel_shape' is missing",
        ),
        (
            node("Flatten", ["x"], ["y"], axis=1.5, name="f"),
            "f (model:0): Flatten: Mismatched attribute type",
        ),
        (node("Relu", ["x"], ["y"], slope=1, name="r"), "r (model:0): Relu: Unrecognized attribute: slope"),
        (
            node("Add", ["x"], ["y"], name="a"),
            "a (model:0): Add: Node(a) with schema(::Add:14) has input size 1 not in range [min=2, max=2]",
        ),
    ],
)
def test_malformed_nodes(model: Make, proto: Any, expected: str) -> None:
    """Attributes missing, of the wrong type, unknown; operands missing: with the node in front."""
    with pytest.raises(UnsupportedError) as caught:
        import_onnx(model([proto], {"x": [1, 2, 4, 4]}, ["y"]), store=WeightStore())
    assert expected in str(caught.value)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "Conv"])
@pytest.mark.parametrize("attribute", ["strides", "dilations"])
def test_windows_that_do_not_move(model: Make, op: str, attribute: str) -> None:
    """A stride or dilation of 0 is refused here; onnxruntime is not even asked."""
    attributes: dict[str, Any] = {"kernel_shape": [2, 2], attribute: [0, 1]}
    inputs, weights = (["x", "w"], {"w": random(2, 2, 2, 2)}) if op == "Conv" else (["x"], {})
    made = model(
        [node(op, inputs, ["y"], name="p", **attributes)], {"x": [1, 2, 4, 4]}, ["y"], weights, opset=19
    )
    with pytest.raises(UnsupportedError, match=rf"^p \(model:0\): {op}: {attribute} \(0, 1\) are not all"):
        import_onnx(made, store=WeightStore())


def test_extents_beyond_any_machine(model: Make) -> None:
    """An image of 2^42 pixels is a damaged extent, not a tensor to plan for."""
    made = model(
        [node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], name="p")], {"x": [1, 2, 1 << 21, 1 << 21]}, ["y"]
    )
    with pytest.raises(
        UnsupportedError, match=r"^p \(model:0\): MaxPool: its result 'y' would have the extents"
    ):
        import_onnx(made, store=WeightStore())


@pytest.mark.parametrize("far", [1 << 12, 1 << 20])
def test_moves_too_large_to_number(model: Make, far: int) -> None:
    """A damaged pad of gigabytes is left to the host, or refused, before anything of its size is allocated."""
    pads = np.array([0, 0, far, 0, 0, 0, far, far])
    made = model([node("Pad", ["x", "pads"], ["y"])], {"x": [1, 3, 6, 6]}, ["y"], {"pads": pads})
    tracemalloc.start()
    try:
        if far == 1 << 12:
            assert "graph.host" in str(import_onnx(made, store=WeightStore()))
        else:
            with pytest.raises(UnsupportedError, match="an attribute must be wrong"):
                import_onnx(made, store=WeightStore())
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


def test_names_that_are_not_text(model: Make, tmp_path: Path) -> None:
    """A name in another encoding is said to be one, with the node's index."""
    made = model([node("Relu", ["x"], ["y"], name="abcdef")], {"x": [2]}, ["y"])
    path = tmp_path / "m.onnx"
    path.write_bytes(made.SerializeToString().replace(b"abcdef", b"ab\xff\xfeef"))
    with pytest.raises(UnsupportedError, match=r"^node 0 \(m.onnx:0\): a name is not UTF-8 text"):
        import_onnx(path, store=WeightStore())


def test_element_types_that_do_not_exist(model: Make) -> None:
    """A stored tensor of type 99 is an error of that tensor."""
    made = model([node("MatMul", ["x", "w"], ["y"])], {"x": [2, 6]}, ["y"], {"w": random(6, 5)})
    made.graph.initializer[0].data_type = 99
    with pytest.raises(UnsupportedError, match="tensor 'w' has element type 99, which does not exist"):
        import_onnx(made, store=WeightStore())


def test_two_imports_give_the_same_bytes(model: Make, tmp_path: Path) -> None:
    """Text of the module and file of the weights, host models included."""
    texts: list[str] = []
    for index in range(2):
        store = WeightStore()
        texts.append(str(import_onnx(whole_model(model), shapes={"x": (1, 3, 6, 6)}, store=store)))
        store.save(tmp_path / str(index))
    assert texts[0] == texts[1]
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()


def test_the_given_model_is_not_changed(model: Make) -> None:
    """A ModelProto belongs to the caller."""
    made = whole_model(model)
    before = made.SerializeToString(deterministic=True)
    import_onnx(made, shapes={"x": (1, 3, 6, 6)}, store=WeightStore())
    assert made.SerializeToString(deterministic=True) == before


LONG = (1 << 62) + 1
"""No machine has so many of anything."""


@pytest.mark.parametrize(
    ("proto", "constants", "says"),
    [
        (
            node("ConvTranspose", ["x", "w"], ["y"], strides=[2, LONG], name="t"),
            {"w": random(2, 2, 3, 3)},
            "the extents of its result 'y' depend on",  # onnxruntime's 64 bits overflow
        ),
        (
            node("ConvTranspose", ["x", "w"], ["y"], output_padding=[0, 1 << 31], name="t"),
            {"w": random(2, 2, 3, 3)},
            "an attribute must be wrong",
        ),
        (
            node("ConvTranspose", ["x", "w"], ["y"], pads=[0, 0, 1], name="t"),
            {"w": random(2, 2, 3, 3)},
            "onnxruntime does not run it",
        ),
        (
            node("ConvTranspose", ["x", "w"], ["y"], output_shape=[9], name="t"),
            {"w": random(2, 2, 3, 3)},
            "onnxruntime does not run it",
        ),
    ],
    ids=["stride", "output padding", "three pads", "one extent"],
)  # fmt: skip
def test_transposed_convolutions_of_any_size(model: Make, proto: Any, constants: Any, says: str) -> None:
    """Extents are worked out before a result of that size, or a phase for each step of a stride, is made."""
    made = model([proto], {"x": [1, 2, 4, 4]}, ["y"], constants)
    with pytest.raises(UnsupportedError, match=rf"^t \(model:0\): ConvTranspose: .*{says}"):
        import_onnx(made, store=WeightStore())


@pytest.mark.parametrize(
    ("proto", "constant", "refused"),
    [
        (node("LayerNormalization", ["x", "c"], ["y"], name="n"), random(5), False),
        (node("PRelu", ["x", "c"], ["y"], name="n"), random(3), False),
        (node("MatMul", ["x", "x3"], ["y"], name="n"), random(1), True),
        (node("Where", ["mask", "x", "c"], ["y"], name="n"), random(3), True),
    ],
    ids=lambda case: getattr(case, "op_type", ""),
)
def test_operands_that_do_not_broadcast(model: Make, proto: Any, constant: Any, refused: bool) -> None:
    """Such a node is left to onnxruntime, which refuses it here or, where it infers no shapes, when it runs."""
    inputs = {"x": [2, 4, 4], "x3": [3, 4, 4]} if "x3" in proto.input else {"x": [2, 4, 4]}
    made = model([proto], inputs, ["y"], {"c": constant, "mask": np.array([True, False, True])}, opset=17)
    if not refused:
        assert "graph.host" in str(import_onnx(made, store=WeightStore()))
        return
    with pytest.raises(
        UnsupportedError, match=rf"^n \(model:0\): {proto.op_type}: .*Incompatible dimensions"
    ):
        import_onnx(made, store=WeightStore())


def test_results_without_elements(model: Make) -> None:
    """They are constants, whatever makes them; an output without elements is refused by name."""
    picked = node("Gather", ["x", "none"], ["g"], axis=1)
    nodes = [picked, node("ReduceSum", ["g"], ["s"]), node("Add", ["x", "s"], ["y"])]
    constants = {"none": np.zeros(0, np.int64)}
    made = import_onnx(model(nodes, {"x": [1, 2, 4]}, ["y"], constants), store=WeightStore())
    assert "graph.host" not in str(made)
    with pytest.raises(UnsupportedError, match=r"^model: output 'g' has no elements"):
        import_onnx(model(nodes, {"x": [1, 2, 4]}, ["y", "g"], constants), store=WeightStore())


def test_gemm_by_a_vector(model: Make) -> None:
    """A weight that is no matrix is onnxruntime's to refuse, by the node's name."""
    made = model([node("Gemm", ["x", "w", "w"], ["y"], name="g")], {"x": [2, 4]}, ["y"], {"w": random(4)})
    with pytest.raises(UnsupportedError, match=r"^g \(model:0\): Gemm: "):
        import_onnx(made, store=WeightStore())


@pytest.mark.parametrize("attribute", ["strides", "dilations"])
def test_windows_that_leap(model: Make, attribute: str) -> None:
    """A stride that 32 bits do not hold is refused by its node, not found as a division by zero later."""
    attributes: dict[str, Any] = {"kernel_shape": [2, 2], attribute: [1 << 33, 1]}
    made = model(
        [node("MaxPool", ["x"], ["y"], name="p", **attributes)], {"x": [1, 2, 4, 4]}, ["y"], opset=19
    )
    with pytest.raises(
        UnsupportedError, match=rf"^p \(model:0\): MaxPool: {attribute} .* not all at most 1048576"
    ):
        import_onnx(made, store=WeightStore())
