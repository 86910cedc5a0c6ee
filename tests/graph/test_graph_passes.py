"""The FileCheck files of the graph passes, and what those cannot say: numbers and errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from cimc.diagnostics import UnsupportedError
from cimc.dialects.context import CimContext
from cimc.interpreters.graph import run_graph
from cimc.passes.graph.fold_batch_norm import FoldBatchNorm
from cimc.passes.graph.rebind_batch import RebindBatch, is_batch_parallel, mixing_operation

Parse = Callable[[str], ModuleOp]
FILES = sorted((Path(__file__).parent / "filecheck").glob("*.mlir"))


def main(body: str, arguments: str, results: str) -> str:
    """A module text: ``body`` ends in its return."""
    inputs = ", ".join(f'"{a.split(":")[0].strip(" %")}"' for a in arguments.split(", "))
    return (
        f"func.func @main({arguments}) -> ({results}) "
        f'attributes {{"graph.inputs" = [{inputs}], "graph.outputs" = ["y"]}} {{\n{body}\n}}'
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_filecheck(filecheck: Callable[[Path], None], path: Path) -> None:
    """Each file is the specification of the pass it is named for."""
    filecheck(path)


def test_a_wrong_expectation_fails(filecheck: Callable[[Path], None], tmp_path: Path) -> None:
    """The checker itself can fail: an expectation that is not met is reported."""
    text = next(path for path in FILES if path.stem == "canonicalise").read_text()
    path = tmp_path / "wrong.mlir"
    path.write_text(text.replace("CHECK-NEXT: [[Z:%.*]] = graph.relu", "CHECK-NEXT: [[Z:%.*]] = graph.clip"))
    with pytest.raises(AssertionError, match="clip"):
        filecheck(path)


CONV = """
%c = graph.conv %x weight <"w"> bias <"b"> kernel <3, 3> strides <1, 1> pads <0, 0, 0, 0> dilations <1, 1>
  group 2 tensors ["c"] : (tensor<1x4x6x6xf32>) -> tensor<1x6x4x4xf32> loc("conv1"("m.onnx":3:0))
%y = graph.affine %c scale <"s"> shift <"t"> axis 1 of "BatchNormalization" tensors ["y"]
  : (tensor<1x6x4x4xf32>) -> tensor<1x6x4x4xf32>
func.return %y : tensor<1x6x4x4xf32>
"""


def conv_context(scale: float) -> CimContext:
    rng = np.random.default_rng(0)
    ctx = CimContext()
    ctx.store.put("w", rng.normal(size=(6, 2, 3, 3)).astype(np.float32))
    ctx.store.put("b", rng.normal(size=6).astype(np.float32))
    ctx.store.put("s", rng.normal(size=6) * scale)
    ctx.store.put("t", rng.normal(size=6))
    return ctx


def test_folding_rounds_once(parse: Parse) -> None:
    """Weights are float32 of the float64 product, for grouped convolutions too; results agree."""
    ctx, module = conv_context(1.0), parse(main(CONV, "%x: tensor<1x4x6x6xf32>", "tensor<1x6x4x4xf32>"))
    x = np.random.default_rng(1).normal(size=(1, 4, 6, 6)).astype(np.float32)
    before = run_graph(module, ctx.store, {"x": x})["y"]
    FoldBatchNorm().apply(ctx, module)
    after = run_graph(module, ctx.store, {"x": x})["y"]
    np.testing.assert_allclose(after, before, rtol=0, atol=2e-6 * np.abs(before).max())
    exact = ctx.store.array("w").astype(np.float64) * ctx.store.array("s").reshape(-1, 1, 1, 1)
    np.testing.assert_array_equal(ctx.store.array("w.folded"), exact.astype(np.float32))


def test_folding_that_overflows_is_located(parse: Parse) -> None:
    """A variance of nearly zero makes weights that float32 does not hold."""
    ctx, module = conv_context(1e39), parse(main(CONV, "%x: tensor<1x4x6x6xf32>", "tensor<1x6x4x4xf32>"))
    with pytest.raises(UnsupportedError, match=r"^conv1 \(m.onnx:3\): graph.conv: folding .* beyond float32"):
        FoldBatchNorm().apply(ctx, module)


@pytest.mark.parametrize(
    ("body", "arguments", "result", "reason"),
    [
        (
            '%y = graph.reshape %x tensors ["y"] : (tensor<4x6xf32>) -> tensor<8x3xf32>',
            "%x: tensor<4x6xf32>", "tensor<8x3xf32>", "does not begin with the batch 4",
        ),
        (
            '%y = graph.softmax %x axis 0 tensors ["y"] : (tensor<4x6xf32>) -> tensor<4x6xf32>',
            "%x: tensor<4x6xf32>", "tensor<4x6xf32>", "graph.softmax: mixes entries",
        ),
        (
            '%y = graph.host "CumSum"(%x) model <"m"> reason "r" tensors ["y"] : (tensor<4x6xf32>) -> tensor<4x6xf32>',
            "%x: tensor<4x6xf32>", "tensor<4x6xf32>", "graph.host: mixes entries",
        ),
        (
            '%y = graph.relu %x tensors ["y"] : (tensor<4x6xf32>) -> tensor<4x6xf32>',
            "%x: tensor<4x6xf32>, %z: tensor<2x6xf32>", "tensor<4x6xf32>", "not one batch",
        ),
    ],
)  # fmt: skip
def test_what_mixes_images_is_named(
    parse: Parse, body: str, arguments: str, result: str, reason: str
) -> None:
    """A graph with such an operation keeps its batch, and the error says which one it is."""
    module = parse(main(f"{body}\nfunc.return %y : {result}", arguments, result))
    assert not is_batch_parallel(module)
    assert reason in (mixing_operation(module) or "")
    with pytest.raises(UnsupportedError, match="the batch cannot be rebound to 1"):
        RebindBatch().apply(CimContext(), module)
