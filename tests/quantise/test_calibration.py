"""Calibration: data in its forms, what is refused, and ranges that are the same bytes each time."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser

from cimc.calibration import CalibrationWarning, Samples, collect_ranges, load_samples, random_samples
from cimc.diagnostics import CimError, ExitCode, UsageError
from cimc.dialects.context import CimContext

TWO_INPUTS = """
func.func @main(%a: tensor<2x3xf32>, %b: tensor<2x3xf32>) -> tensor<2x3xf32>
    attributes {"graph.inputs" = ["a", "b"], "graph.outputs" = ["y"]} {
  %s = graph.add %a, %b tensors ["s"] : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x3xf32>
  %y = graph.relu %s tensors ["y"] : (tensor<2x3xf32>) -> tensor<2x3xf32>
  func.return %y : tensor<2x3xf32>
}"""
ONE_INPUT = """
func.func @main(%x: tensor<1x3xf32>) -> tensor<1x3xf32>
    attributes {"graph.inputs" = ["x"], "graph.outputs" = ["y"]} {
  %y = graph.relu %x tensors ["y"] : (tensor<1x3xf32>) -> tensor<1x3xf32>
  func.return %y : tensor<1x3xf32>
}"""


def parse(text: str) -> tuple[CimContext, ModuleOp]:
    context = CimContext()
    return context, Parser(context, f"builtin.module {{ {text} }}").parse_module()


def data(count: int = 4) -> dict[str, npt.NDArray[Any]]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(count, 3)).astype(np.float32) for name in ("a", "b")}


def test_ranges_are_the_extremes_over_all_samples() -> None:
    """Min-max of every float tensor, inputs included, over all runs of a model of batch 2."""
    context, module = parse(TWO_INPUTS)
    arrays = data(6)
    ranges = collect_ranges(module, context.store, load_samples(arrays, module))
    total = arrays["a"] + arrays["b"]
    expected = {"a": arrays["a"], "b": arrays["b"], "s": total, "y": np.maximum(total, 0)}
    assert list(ranges) == ["a", "b", "s", "y"]
    for name, values in expected.items():
        np.testing.assert_array_equal(ranges[name], [values.min(), values.max()])
        assert ranges[name].dtype == np.float32


def test_percentile_cuts_both_ends() -> None:
    """``percentile=90`` keeps 90 % of a run's values inside, 5 % off at each end; runs are averaged."""
    context, module = parse(ONE_INPUT.replace("1x3", "1x1001"))
    runs = np.stack([np.linspace(-10, 10, 1001), np.linspace(-20, 30, 1001)]).astype(np.float32)
    ranges = collect_ranges(module, context.store, load_samples({"x": runs}, module), percentile=90.0)
    np.testing.assert_allclose(ranges["x"], [(-9 - 17.5) / 2, (9 + 27.5) / 2], rtol=1e-6)


@pytest.mark.parametrize("percentile", [50.0, 100.5])
def test_percentile_has_a_range(percentile: float) -> None:
    """Half of the values or more than all of them is no range."""
    context, module = parse(ONE_INPUT)
    with pytest.raises(UsageError, match=r"percentile lies above 50"):
        collect_ranges(module, context.store, Samples({}, 0), percentile=percentile)


def test_forms_of_data_give_equal_bytes(tmp_path: Path) -> None:
    """An npz, a folder per input and a mapping hold the same samples, whatever the order they were written in."""
    context, module = parse(TWO_INPUTS)
    arrays = data(4)
    np.savez(tmp_path / "cal.npz", b=arrays["b"], a=arrays["a"])
    for name, array in arrays.items():
        (tmp_path / "folder" / name).mkdir(parents=True)
        for index in (2, 0, 3, 1):
            np.save(tmp_path / "folder" / name / f"{index}.npy", array[index])
    sources = [arrays, tmp_path / "cal.npz", str(tmp_path / "folder")]
    found = [collect_ranges(module, context.store, load_samples(source, module)) for source in sources]
    blobs = [[(name, ends.tobytes()) for name, ends in ranges.items()] for ranges in found]
    assert blobs[0] == blobs[1] == blobs[2]


def test_a_folder_of_one_input_needs_no_sub_folder(tmp_path: Path) -> None:
    """Files hold one sample or several; they follow each other by name."""
    _, module = parse(ONE_INPUT)
    np.save(tmp_path / "0.npy", np.zeros(3))
    np.save(tmp_path / "1.npy", np.ones((2, 3)))
    samples = load_samples(tmp_path, module)
    assert samples.runs == 3
    np.testing.assert_array_equal(samples.arrays["x"], [[0, 0, 0], [1, 1, 1], [1, 1, 1]])


def refused(tmp_path: Path, kind: str) -> Any:
    """A source of calibration data for TWO_INPUTS with one mistake."""
    a = np.zeros((4, 3), np.float32)
    if kind == "not an npz":
        (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 broken")
        return tmp_path / "x.npz"
    if kind == "pickle":
        np.savez(tmp_path / "p.npz", a=np.array([{}], object), b=a)
        return tmp_path / "p.npz"
    if kind == "absent":
        return tmp_path / "none.npz"
    if kind == "loose files":
        np.save(tmp_path / "0.npy", a)
        return tmp_path
    if kind == "empty folder":
        (tmp_path / "a").mkdir()
        return tmp_path
    return {
        "missing": {"a": a},
        "unknown": {"a": a, "b": a, "c": a},
        "shape": {"a": a, "b": np.zeros((4, 4), np.float32)},
        "rank": {"a": a, "b": np.zeros(4, np.float32)},
        "elements": {"a": a, "b": a.astype(np.complex64)},
        "nan": {"a": a, "b": np.full((4, 3), np.nan, np.float32)},
        "odd": {"a": a[:3], "b": a[:3]},
        "none": {"a": a[:0], "b": a[:0]},
        "counts": {"a": a, "b": a[:2]},
    }[kind]


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("not an npz", r"x\.npz: this \.npz is damaged \(File is not a zip"),
        ("pickle", r"p\.npz: array 'a' cannot be read \(Object arrays"),
        ("absent", r"none\.npz: there is no such file"),
        ("loose files", r"2 inputs; put the \.npy files into one folder each: a, b"),
        ("empty folder", r"^a: holds no \.npy files"),
        ("missing", r"no array for input 'b'; it holds a"),
        ("unknown", r"holds 'c', which is no input; the inputs are a, b"),
        ("shape", r"'b' has shape \(4, 4\); give \(samples, 3\)"),
        ("rank", r"'b' has shape \(4,\); give \(samples, 3\)"),
        ("elements", r"'b' has elements complex64; the model takes float32"),
        ("nan", r"'b' holds numbers that are not finite"),
        ("odd", r"'a' has 3 samples; the model runs 2 at a time"),
        ("none", r"'a' has 0 samples"),
        ("counts", r"different numbers of samples: a: 2, b: 1"),
    ],
)
def test_bad_data_is_refused(tmp_path: Path, kind: str, says: str) -> None:
    """One clear message for each mistake, and exit code 2."""
    _, module = parse(TWO_INPUTS)
    with pytest.raises(CimError, match=says) as caught:
        load_samples(refused(tmp_path, kind), module)
    assert caught.value.exit_code == ExitCode.USAGE


def test_overflow_on_the_data_names_the_tensor() -> None:
    """A tensor that becomes infinite has no range."""
    context, module = parse(TWO_INPUTS)
    huge = {"a": np.full((2, 3), 3e38, np.float32), "b": np.full((2, 3), 3e38, np.float32)}
    with (
        np.errstate(over="ignore"),
        pytest.raises(UsageError, match=r"tensor 's' \(and 1 after it\) reaches inf"),
    ):
        collect_ranges(module, context.store, load_samples(huge, module))


def test_random_data_warns_and_is_seeded() -> None:
    """Without data there are ranges, the same each time, and a warning that says what to give."""
    _, module = parse(TWO_INPUTS)
    with pytest.warns(CalibrationWarning, match=r"--calibration"):
        first = random_samples(module, runs=3)
    with pytest.warns(CalibrationWarning):
        second = random_samples(module, runs=3)
    assert first.arrays["a"].shape == (6, 3)
    np.testing.assert_array_equal(first.arrays["b"], second.arrays["b"])
    assert not np.array_equal(first.arrays["a"], first.arrays["b"])
