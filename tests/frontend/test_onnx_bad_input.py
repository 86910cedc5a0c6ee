"""Bad models: one clear message each, the right kind of error, all problems of a stage together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from cimc.diagnostics import CimError, ErrorList, ExitCode, UnsupportedError, UsageError
from cimc.dialects.weights import WeightStore
from cimc.frontend.onnx import import_onnx

Make = Callable[..., ModelProto]
node = helper.make_node


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def message(source: Any, kind: type[CimError], shapes: Mapping[str, tuple[int, ...]] | None = None) -> str:
    """The text of the error that importing ``source`` raises, which must be of ``kind``."""
    with pytest.raises(CimError) as caught:
        import_onnx(source, shapes=shapes, store=WeightStore())
    error = caught.value
    first = error.errors[0] if isinstance(error, ErrorList) else error
    assert type(first) is kind
    assert error.exit_code == kind.exit_code
    assert "Traceback" not in str(error)
    return str(error)


def relu_model(model: Make, dims: list[Any] | None = None) -> ModelProto:
    return model([node("Relu", ["x"], ["y"])], {"x": dims or [2, 3]}, ["y"])


def test_exit_codes_of_the_two_kinds() -> None:
    """What is wrong with the model is 1, what is wrong with the call or its files is 2."""
    assert UnsupportedError.exit_code == ExitCode.UNSUPPORTED == 1
    assert UsageError.exit_code == ExitCode.USAGE == 2


def test_missing_file(tmp_path: Path) -> None:
    """The path is repeated, so that a typo shows."""
    assert "mdoel.onnx: there is no such file" in message(tmp_path / "mdoel.onnx", UsageError)


def test_folder_instead_of_file(tmp_path: Path) -> None:
    """A folder is no model."""
    assert "this is a folder" in message(tmp_path, UsageError)


@pytest.mark.parametrize("content", [b"this is not protobuf", b"\xff" * 100, b"PK\x03\x04zip"])
def test_broken_protobuf(tmp_path: Path, content: bytes) -> None:
    """Garbage is refused by name, without protobuf's words."""
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    assert message(path, UnsupportedError).startswith("m.onnx: this is not an ONNX model")


def test_truncated_file(model: Make, tmp_path: Path) -> None:
    """Half a model is damaged or lacks its outputs; either way it is an error."""
    made = model([node("MatMul", ["x", "w"], ["y"])], {"x": [2, 30]}, ["y"], {"w": random(30, 30)})
    path = tmp_path / "m.onnx"
    path.write_bytes(made.SerializeToString()[:1000])
    assert message(path, UnsupportedError).startswith("m.onnx: ")


def test_empty_file(tmp_path: Path) -> None:
    """An empty file parses as an empty message; it holds no graph."""
    path = tmp_path / "m.onnx"
    path.write_bytes(b"")
    assert "holds no graph" in message(path, UnsupportedError)


def test_graph_without_nodes(model: Make) -> None:
    """There is nothing to compile."""
    assert "without nodes" in message(model([], {"x": [2]}, ["x"]), UnsupportedError)


def test_graph_without_outputs(model: Make) -> None:
    """There is nothing to compute."""
    assert "no outputs" in message(model([node("Relu", ["x"], ["y"])], {"x": [2]}, []), UnsupportedError)


@pytest.mark.parametrize("opset", [1, 6, 27, 99])
def test_opset_outside_the_range(model: Make, opset: int) -> None:
    """The range and the remedy are in the message."""
    made = relu_model(model)
    made.opset_import[0].version = opset
    text = message(made, UnsupportedError)
    assert f"opset {opset} is outside 7 .. 26" in text
    assert "version_converter" in text


def test_versions_are_reported_together(model: Make) -> None:
    """A new container and an old opset are one report, not two attempts."""
    made = relu_model(model)
    made.ir_version, made.opset_import[0].version = 14, 5
    text = message(made, UnsupportedError)
    assert "IR version 14 is newer than 13" in text
    assert "opset 5" in text


def test_no_opset_at_all(model: Make) -> None:
    """Without a version no operator has a meaning."""
    made = relu_model(model)
    del made.opset_import[:]
    assert "imports no version" in message(made, UnsupportedError)


def test_unknown_operators_are_listed(model: Make) -> None:
    """All of them, with node name and index."""
    nodes = [node("Relo", ["x"], ["a"], name="first"), node("Konv", ["a"], ["y"])]
    text = message(model(nodes, {"x": [2]}, ["y"]), UnsupportedError)
    assert "first (model:0): opset 17 has no operator 'Relo'" in text
    assert "Konv_1 (model:1): opset 17 has no operator 'Konv'" in text


def test_operator_of_a_later_opset(model: Make) -> None:
    """Gelu came with opset 20."""
    made = model([node("Gelu", ["x"], ["y"])], {"x": [2]}, ["y"], opset=17)
    assert "opset 17 has no operator 'Gelu'" in message(made, UnsupportedError)


def test_domain_that_is_not_imported(model: Make) -> None:
    """A node may only use operator sets that the model names."""
    made = model([node("Gelu", ["x"], ["y"], domain="com.microsoft")], {"x": [2]}, ["y"])
    assert "domain 'com.microsoft' of Gelu is not imported" in message(made, UnsupportedError)


def test_domain_onnxruntime_does_not_know(model: Make) -> None:
    """A custom operator is refused at import, with its node, not at run time."""
    made = model(
        [node("Magic", ["x"], ["y"], domain="my.own", name="m")], {"x": [2]}, ["y"], domains={"my.own": 1}
    )
    assert message(made, UnsupportedError).startswith("m (model:0): Magic: onnxruntime does not run it")


def test_open_dimension(model: Make) -> None:
    """The message is the option to type."""
    text = message(relu_model(model, ["batch", 3, None, 8]), UsageError)
    assert "0 ('batch'), 2 ('?')" in text
    assert "--shape x=1,3,1,8" in text


def test_input_without_a_shape(model: Make) -> None:
    """Rank and extents are both unknown."""
    made = relu_model(model)
    made.graph.input[0].type.tensor_type.ClearField("shape")
    assert "input 'x' has no shape; bind it with --shape" in message(made, UsageError)


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ({"z": (1, 3), "x": (1, 3)}, "--shape names 'z', but the inputs are x"),
        ({"x": (1, 3, 1)}, "--shape x=1,3,1 contradicts the model's shape batch,3"),
        ({"x": (1, 4)}, "--shape x=1,4 contradicts"),
        ({"x": (0, 3)}, "has an extent below 1: 0,3"),
        ({"x": (-1, 3)}, "has an extent below 1: -1,3"),
    ],
)
def test_wrong_shape_options(model: Make, shapes: dict[str, tuple[int, ...]], expected: str) -> None:
    """Unknown names, wrong ranks, contradictions and extents below 1."""
    assert expected in message(relu_model(model, ["batch", 3]), UsageError, shapes)


def test_one_name_for_two_extents(model: Make) -> None:
    """Inputs that share a dimension's name must be bound alike."""
    made = model([node("Concat", ["a", "b"], ["y"], axis=1)], {"a": ["n", 2], "b": ["n", 3]}, ["y"])
    text = message(made, UsageError, {"a": (1, 2), "b": (2, 3)})
    assert "dimension 'n' is bound to 1 and to 2" in text


def test_all_shape_problems_together(model: Make) -> None:
    """Two open inputs are two lines of one error."""
    made = model([node("Concat", ["a", "b"], ["y"], axis=1)], {"a": ["n", 2], "b": ["m", 3]}, ["y"])
    text = message(made, UsageError)
    assert "--shape a=1,2" in text
    assert "--shape b=1,3" in text


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("op", ["Conv", "MatMul", "Gemm"])
def test_weights_that_are_not_finite(model: Make, bad: float, op: str) -> None:
    """The tensor and the number of bad elements are named."""
    weight = random(4, 3, 3, 3) if op == "Conv" else random(6, 5)
    weight.reshape(-1)[[2, 7]] = bad
    shape = [1, 3, 6, 6] if op == "Conv" else [2, 6]
    text = message(
        model([node(op, ["x", "w.7"], ["y"])], {"x": shape}, ["y"], {"w.7": weight}), UnsupportedError
    )
    assert f"'w.7' holds 2 of {weight.size} elements that are NaN or infinite" in text


def test_all_bad_weights_together(model: Make) -> None:
    """Two damaged layers are two lines; the second one's input is fine."""
    nan = np.full((6, 6), np.nan, np.float32)
    nodes = [
        node("MatMul", ["x", "w"], ["a"]),
        node("MatMul", ["x", "v"], ["b"]),
        node("Add", ["a", "b"], ["y"]),
    ]
    text = message(model(nodes, {"x": [2, 6]}, ["y"], {"w": nan, "v": nan}), UnsupportedError)
    assert "operand 'w' holds 36 of 36" in text
    assert "operand 'v' holds 36 of 36" in text


def test_tensor_defined_twice(model: Make) -> None:
    """Both makers are named."""
    nodes = [node("Relu", ["x"], ["y"], name="one"), node("Abs", ["x"], ["y"], name="two")]
    text = message(model(nodes, {"x": [2]}, ["y"]), UnsupportedError)
    assert text == "two (model:1): tensor 'y' is defined already, by one (model:0)"


@pytest.mark.parametrize("what", ["input", "initializer", "output"])
def test_names_used_twice(model: Make, what: str) -> None:
    """Inputs, initializers and outputs have names of their own."""
    made = model([node("MatMul", ["x", "w"], ["y"])], {"x": [2, 6]}, ["y"], {"w": random(6, 5)})
    field = getattr(made.graph, what)
    field.append(field[0])
    assert f"two {what}s of the graph are called" in message(made, UnsupportedError)


def test_undefined_names(model: Make) -> None:
    """An input and an output that nothing produces, in one report."""
    text = message(model([node("Add", ["x", "q"], ["y"])], {"x": [2]}, ["y", "z"]), UnsupportedError)
    assert "Add_0 (model:0): input 'q' is produced by nothing" in text
    assert "output 'z' is produced by nothing" in text


def test_cycle(model: Make) -> None:
    """A graph that waits for itself."""
    nodes = [node("Add", ["x", "b"], ["a"], name="p"), node("Relu", ["a"], ["b"], name="q")]
    assert "the graph has a cycle through p, q" in message(model(nodes, {"x": [2]}, ["b"]), UnsupportedError)


def test_result_whose_extents_depend_on_data(model: Make) -> None:
    """NonZero: the number of results is not known before it runs."""
    nodes = [node("NonZero", ["x"], ["n"], name="nz"), node("Cast", ["n"], ["y"], to=1)]
    text = message(model(nodes, {"x": [2, 3]}, ["y"]), UnsupportedError)
    assert text.startswith("nz (model:0): NonZero: the extents of its result 'n' depend on data")


def test_constant_too_large_to_fold(model: Make) -> None:
    """A file of a few bytes must not make the compiler allocate terabytes."""
    nodes = [node("ConstantOfShape", ["s"], ["w"]), node("MatMul", ["x", "w"], ["y"])]
    text = message(model(nodes, {"x": [2, 6]}, ["y"], {"s": np.array([1 << 20, 1 << 20])}), UnsupportedError)
    assert "would take 4398046511104 bytes, the limit is 1073741824" in text


def test_sequences_and_text(model: Make) -> None:
    """Values that are not numeric tensors have no place on an accelerator."""
    made = model([node("SequenceConstruct", ["x"], ["y"])], {"x": [2]}, ["y"])
    assert "only numeric tensors have a place here" in message(made, UnsupportedError)
    text = model([node("Identity", ["x"], ["y"])], {"x": [2]}, ["y"], input_type=TensorProto.STRING)
    assert "input 'x' is a tensor of STRING" in message(text, UnsupportedError)


def test_shapes_that_do_not_match(model: Make) -> None:
    """onnxruntime's own refusal, with the node in front."""
    made = model([node("MatMul", ["x", "w"], ["y"], name="fc")], {"x": [2, 7]}, ["y"], {"w": random(6, 5)})
    assert message(made, UnsupportedError).startswith("fc (model:0): MatMul: onnxruntime does not run it")


@pytest.fixture
def external(model: Make, tmp_path: Path) -> Path:
    """A model whose weight is in ``m.data`` next to it."""
    made = model([node("MatMul", ["x", "w"], ["y"])], {"x": [2, 6]}, ["y"], {"w": random(6, 5)})
    path = tmp_path / "models" / "m.onnx"
    path.parent.mkdir()
    onnx.save(made, str(path), save_as_external_data=True, location="m.data", size_threshold=0)
    return path


def relocate(path: Path, **entries: str) -> None:
    """Rewrite where the model says that its data is."""
    made = onnx.load(str(path), load_external_data=False)
    tensor = made.graph.initializer[0]
    for entry in tensor.external_data:
        entry.value = entries.pop(entry.key, entry.value)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(made.SerializeToString())


def test_external_data_is_read(external: Path) -> None:
    """The weight in the file next to the model is the weight."""
    store = WeightStore()
    import_onnx(external, store=store)
    np.testing.assert_array_equal(store.array("MatMul_0.weight"), random(6, 5))


def test_external_data_missing(external: Path) -> None:
    """The file's name is given as the model has it."""
    (external.parent / "m.data").unlink()
    assert "tensor 'w': its data file 'm.data' is missing" in message(external, UsageError)


@pytest.mark.parametrize("location", ["../secret.data", "/etc/hostname", "sub/../../secret.data"])
def test_external_data_outside_the_folder(external: Path, location: str) -> None:
    """A model cannot read other files of the user's, even where they exist."""
    (external.parent.parent / "secret.data").write_bytes(b"\0" * 120)
    (external.parent / "sub").mkdir()
    relocate(external, location=location)
    assert "is outside the model's folder" in message(external, UsageError)


def test_external_data_through_a_link(external: Path) -> None:
    """A symbolic link out of the folder is outside."""
    secret = external.parent.parent / "secret.data"
    secret.write_bytes(b"\0" * 120)
    (external.parent / "link.data").symlink_to(secret)
    relocate(external, location="link.data")
    assert "is outside the model's folder" in message(external, UsageError)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"offset": "100", "length": "120"}, "its bytes 100 .. 220 are not in 'm.data', which has 120"),
        ({"offset": "-8"}, "its bytes -8"),
        ({"length": "many"}, "is not a number"),
    ],
)
def test_external_data_of_the_wrong_size(external: Path, entries: dict[str, str], expected: str) -> None:
    """Offset and length must lie within the file."""
    relocate(external, **entries)
    assert expected in message(external, UsageError)


def test_stored_tensor_of_the_wrong_size(model: Make) -> None:
    """Fewer bytes than the shape needs is an error of the tensor, not of numpy."""
    made = model([node("MatMul", ["x", "w"], ["y"])], {"x": [2, 6]}, ["y"], {"w": random(6, 5)})
    made.graph.initializer[0].raw_data = made.graph.initializer[0].raw_data[:-4]
    text = message(made, UnsupportedError)
    assert "tensor 'w'" in text
    assert "116 bytes" in text


def test_external_data_of_a_model_in_memory(external: Path) -> None:
    """A ModelProto has no folder; the remedy is to give the path."""
    made = onnx.load(str(external), load_external_data=False)
    assert "a model in memory has no folder" in message(made, UsageError)


def test_tensors_of_text_among_the_weights(model: Make) -> None:
    """A text initializer that an operator needs is refused with the operator's name."""
    made = model([node("Relu", ["x"], ["y"])], {"x": [2]}, ["y", "t"])
    made.graph.initializer.append(numpy_helper.from_array(np.array(["a"], object), "t"))
    assert "STRING" in message(made, UnsupportedError).upper()
