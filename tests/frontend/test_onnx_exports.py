"""Real exporters: torch by both of its exporters, and the models in onnx's own wheel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from cimc.dialects.context import CimContext
from cimc.dialects.graph import GraphOperation, HostOp
from cimc.dialects.levels import check_level
from cimc.dialects.locations import describe
from cimc.dialects.weights import WeightStore
from cimc.frontend.onnx import import_onnx
from cimc.passes.graph.fold_batch_norm import FoldBatchNorm
from cimc.passes.graph.rebind_batch import RebindBatch, is_batch_parallel

Check = Callable[..., Any]


class Block(nn.Module):
    """A residual block with a normalisation, a pool and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.pool = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = nn.functional.relu6(self.bn1(self.conv1(x)))
        b = self.pool(torch.relu(self.conv2(a) + a))
        return self.fc(self.drop(b.mean((2, 3)).view(b.size(0), -1)))


class Attention(nn.Module):
    """One transformer layer: static products around dynamic ones."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm(x)).view(x.size(0), 6, 3, 2, 8).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return x + self.out(mixed.transpose(1, 2).reshape(x.size(0), 6, 16))


def export(
    module: nn.Module, example: torch.Tensor, path: Path, *, dynamo: bool, opset: int, dynamic: bool = False
) -> onnx.ModelProto:
    torch.manual_seed(0)
    options: dict[str, Any] = {"dynamo": dynamo, "opset_version": opset, "input_names": ["x"]}
    if dynamic and dynamo:
        options["dynamic_shapes"] = ({0: torch.export.Dim("batch")},)
    elif dynamic:
        options["dynamic_axes"] = {"x": {0: "batch"}}
    torch.onnx.export(module.eval(), (example,), str(path), verbose=False, **options)
    return onnx.load(str(path))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("dynamo", "opset"), [(True, 18), (True, 20), (False, 13), (False, 17)])
def test_convolutional_network(check: Check, tmp_path: Path, dynamo: bool, opset: int) -> None:
    """Both exporters give the same array operators and nothing for the host."""
    model = export(Block(), torch.randn(2, 3, 9, 9), tmp_path / "m.onnx", dynamo=dynamo, opset=opset)
    made = check(model)
    kinds = Counter(made.operations)
    assert kinds["conv"] == 2
    assert kinds["gemm"] == 1
    assert kinds["add"] == kinds["clip"] == kinds["relu"] == kinds["max_pool"] == 1
    assert kinds["host"] == kinds["affine"] == 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", [True, False])
def test_dynamic_batch_is_bound_and_rebound(check: Check, tmp_path: Path, dynamo: bool) -> None:
    """--shape binds the batch; shape arithmetic on it folds; the result is independent per image."""
    path = tmp_path / "m.onnx"
    model = export(Block(), torch.randn(2, 3, 9, 9), path, dynamo=dynamo, opset=18, dynamic=True)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    made = check(model, {"x": (5, 3, 9, 9)})
    assert "host" not in made.operations
    assert is_batch_parallel(made.module)
    RebindBatch().apply(CimContext(store=made.store), made.module)
    check_level(made.module, "graph")


@pytest.mark.filterwarnings("ignore")
def test_locations_carry_the_module_scope(tmp_path: Path) -> None:
    """torch's exporter writes the module path; messages and traces speak of it."""
    export(Block(), torch.randn(1, 3, 9, 9), tmp_path / "block.onnx", dynamo=True, opset=20)
    module = import_onnx(tmp_path / "block.onnx", store=WeightStore())
    places = [describe(op.location) for op in module.walk() if op.name in ("graph.conv", "graph.gemm")]
    # The exporter folds bn1 into conv1 itself and gives the result the scope of bn1.
    assert [place.split("/")[0] for place in places] == ["bn1", "conv2", "fc"]
    assert all("(block.onnx:" in place for place in places)
    assert all(describe(op.location) for op in module.walk() if isinstance(op, GraphOperation))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("dynamo", "opset"), [(True, 20), (True, 23), (False, 17)])
def test_attention(check: Check, tmp_path: Path, dynamo: bool, opset: int) -> None:
    """Static products become gemm with their biases; dynamic ones are products of activations."""
    model = export(Attention(), torch.randn(1, 6, 16), tmp_path / "m.onnx", dynamo=dynamo, opset=opset)
    made = check(model)
    kinds = Counter(made.operations)
    assert kinds["gemm"] == 2
    assert kinds["matmul"] >= 2
    assert kinds["host"] == 0
    assert not any("bias" in reason for reason in made.reasons)


LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


@pytest.mark.parametrize(
    ("name", "products", "hosts"),
    [
        ("squeezenet", (26, 0), set[str]()),
        ("resnet50", (53, 1), set[str]()),
        ("inception_v1", (57, 1), set[str]()),
        ("inception_v2", (69, 1), set[str]()),
        ("densenet121", (121, 0), set[str]()),
        ("shufflenet", (49, 1), set[str]()),
        ("bvlc_alexnet", (5, 3), set[str]()),
    ],
)
def test_models_of_the_onnx_wheel(name: str, products: tuple[int, int], hosts: set[str]) -> None:
    """Opset 9, container 3, weights from ConstantOfShape: structure only, their weights are all 0.02."""
    store = WeightStore()
    module = import_onnx(LIGHT / f"light_{name}.onnx", store=store)
    FoldBatchNorm().apply(CimContext(store=store), module)
    check_level(module, "graph")
    kinds = Counter(op.name for op in module.walk())
    assert (kinds["graph.conv"], kinds["graph.gemm"]) == products
    assert {op.op_type.data for op in module.walk() if isinstance(op, HostOp)} == hosts
    assert is_batch_parallel(module)
