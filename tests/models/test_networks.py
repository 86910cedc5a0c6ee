"""Every network: its file equals the torch module in onnxruntime, varies over inputs, names no machine."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from cimc import models
from cimc.diagnostics import UnsupportedError, UsageError
from cimc.models.export import export_module
from cimc.models.tuning import tuned
from cimc.models.vgg import Vgg, vgg_16

# Multiply-accumulates, and how many convolutions and products do them: by hand from the papers' tables.
MACS = {
    "digits": (64 * 16 * 9 + 64 * 32 * 16 * 9 + 16 * 32 * 32 * 9 + 128 * 10, 4),
    "resnet-cifar-20": (
        1024 * 16 * 27  # stem
        + 6 * 1024 * 16 * 16 * 9
        + 256 * 32 * (16 * 9 + 16)
        + 5 * 256 * 32 * 32 * 9
        + 64 * 64 * (32 * 9 + 32)
        + 5 * 64 * 64 * 64 * 9
        + 64 * 10,
        22,
    ),
    "resnet-18": (1_814_073_344, 21),
    "resnet-34": (
        112**2 * 64 * 147  # stem
        + 6 * 56**2 * 64 * 64 * 9
        + 28**2 * 128 * (64 * 10 + 7 * 128 * 9)
        + 14**2 * 256 * (128 * 10 + 11 * 256 * 9)
        + 7**2 * 512 * (256 * 10 + 5 * 512 * 9)
        + 512 * 1000,
        37,
    ),
    "resnet-50": (4_089_184_256, 54),
    "resnet-101": (
        112**2 * 64 * 147  # stem, then blocks as 1x1, 3x3 and 1x1, the first of a stage with its projection
        + 56**2 * 64 * (64 + 64 * 9 + 256 + 256 + 2 * (256 + 64 * 9 + 256))
        + 56**2 * 128 * 256
        + 28**2 * 128 * (128 * 9 + 512 + 256 * 4 + 3 * (512 + 128 * 9 + 512))
        + 28**2 * 256 * 512
        + 14**2 * 256 * (256 * 9 + 1024 + 512 * 4 + 22 * (1024 + 256 * 9 + 1024))
        + 14**2 * 512 * 1024
        + 7**2 * 512 * (512 * 9 + 2048 + 1024 * 4 + 2 * (2048 + 512 * 9 + 2048))
        + 2048 * 1000,
        105,
    ),
    "squeezenet": (
        111**2 * 64 * 27  # stem, then fire modules as squeeze + (1x1 and 3x3: 1 + 9) expand
        + 55**2 * (64 * 16 + 10 * 16 * 64 + 128 * 16 + 10 * 16 * 64)
        + 27**2 * (128 * 32 + 10 * 32 * 128 + 256 * 32 + 10 * 32 * 128)
        + 13**2 * (256 * 48 + 10 * 48 * 192 + 384 * 48 + 10 * 48 * 192)
        + 13**2 * (384 * 64 + 10 * 64 * 256 + 512 * 64 + 10 * 64 * 256)
        + 13**2 * 512 * 1000,
        26,
    ),
    "mobilenet-v2": (300_774_272, 53),
    "vgg-7": (
        32**2 * 9 * (3 * 128 + 128 * 128)
        + 16**2 * 9 * (128 * 256 + 256 * 256)
        + 8**2 * 9 * (256 * 512 + 512 * 512)
        + 16 * 512 * 1024
        + 1024 * 10,
        8,
    ),
    # Over 64 x 64 images with 1/16 of the paper's channels and hidden units: by hand, for SMALL_VGG.
    "vgg-16": (
        64**2 * 9 * (3 * 4 + 4 * 4)
        + 32**2 * 9 * (4 * 8 + 8 * 8)
        + 16**2 * 9 * (8 * 16 + 2 * 16 * 16)
        + 8**2 * 9 * (16 * 32 + 2 * 32 * 32)
        + 4**2 * 9 * (3 * 32 * 32)
        + 32 * 4 * 256
        + 256 * 256
        + 256 * 1000,
        16,
    ),
}
SMALL_VGG = (3, 64, 64)
"""VGG-16 has 138 M weights: its tests run at a sixteenth of its width."""


@dataclass(frozen=True)
class Exported:
    """A network, its file, and both answers to 8 images."""

    name: str
    shape: tuple[int, int, int]
    path: Path
    proto: onnx.ModelProto
    torch_outputs: npt.NDArray[np.float32]
    ort_outputs: npt.NDArray[np.float32]


def run_onnx(path: Path, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Run in onnxruntime on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"x": x})[0])


SLOW = ("resnet-34", "resnet-50", "resnet-101", "vgg-7")


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in models.names()],
)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Build and export once a network."""
    name: str = request.param
    shape, module = _small_vgg() if name == "vgg-16" else (models.network(name).shape, models.build(name))
    path = export_module(module, shape, tmp_path_factory.mktemp(name) / "model.onnx", batch="dynamic")
    x = models.images(8, shape, seed=11)
    with torch.no_grad():
        outputs = module(torch.from_numpy(x)).numpy()
    return Exported(name, shape, path, onnx.load(path), outputs, run_onnx(path, x))


def _small_vgg() -> tuple[tuple[int, int, int], nn.Module]:
    return SMALL_VGG, tuned(lambda: Vgg(width=4, hidden=(256, 256), size=64, classes=1000), SMALL_VGG, seed=0)


def test_vgg_16_has_the_papers_weights() -> None:
    """138,357,544 weights and biases at full width, counted without making them."""
    with torch.device("meta"):
        module = vgg_16()
    assert sum(parameter.numel() for parameter in module.parameters()) == 138_357_544
    assert models.network("vgg-16").shape == (3, 224, 224)


def test_onnxruntime_equals_torch(exported: Exported) -> None:
    """The file computes what the module computes, up to the rounding of float32 sums."""
    scale = np.abs(exported.torch_outputs).max()
    assert exported.ort_outputs.shape == (8, models.network(exported.name).classes)
    assert np.abs(exported.ort_outputs - exported.torch_outputs).max() <= 2e-5 * scale


def test_outputs_vary_over_unseen_images(exported: Exported) -> None:
    """8 images not used in tuning fall into several classes: a constant answer cannot pass for right."""
    measured = models.spread(exported.ort_outputs)
    assert measured.top1 >= (3 if models.network(exported.name).classes == 10 else 4)
    assert measured.std >= 0.1


def test_the_network_is_the_published_one(exported: Exported) -> None:
    """Multiply-accumulates and the number of products, counted from the file, are those of the papers."""
    inferred = onnx.shape_inference.infer_shapes(exported.proto, strict_mode=True)
    weights = {i.name: tuple(i.dims) for i in inferred.graph.initializer}
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*inferred.graph.value_info, *inferred.graph.output)
    }
    products = [n for n in inferred.graph.node if n.op_type in ("Conv", "Gemm")]
    macs = sum(int(np.prod(weights[n.input[1]])) * int(np.prod(shapes[n.output[0]][2:])) for n in products)
    assert (macs, len(products)) == MACS[exported.name]


@pytest.mark.parametrize("name", SLOW)
def test_the_module_is_the_published_network(name: str) -> None:
    """The same two numbers of the networks whose tuning takes long, counted in torch on tensors without data."""
    entry = models.network(name)
    file, function = entry.source.split(":")
    macs: list[int] = []

    def count(layer: nn.Module, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        macs.append(layer.weight.numel() * output[0, 0].numel())

    with torch.device("meta"):
        module: nn.Module = getattr(import_module(file), function)().eval()
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.register_forward_hook(count)
        module(torch.zeros(1, *entry.shape))
    assert (sum(macs), len(macs)) == MACS[name]


def test_nodes_keep_their_kind_and_scope(exported: Exported) -> None:
    """BatchNorm, GlobalAveragePool and Flatten stay such nodes; every node has a name of its own."""
    kinds = Counter(node.op_type for node in exported.proto.graph.node)
    convolutions = kinds["Conv"]
    assert kinds["BatchNormalization"] == (
        0 if exported.name in ("squeezenet", "vgg-7", "vgg-16") else convolutions
    )
    assert kinds["GlobalAveragePool"] == (0 if exported.name in ("digits", "vgg-7", "vgg-16") else 1)
    assert kinds["Clip"] == (35 if exported.name == "mobilenet-v2" else 0)
    assert set(kinds) <= {
        *("Conv", "BatchNormalization", "Relu", "Clip", "Constant", "MaxPool", "Add", "Concat"),
        *("GlobalAveragePool", "Flatten", "Gemm"),
    }
    assert len({node.name for node in exported.proto.graph.node}) == kinds.total()


def test_the_file_holds_nothing_of_this_machine(exported: Exported) -> None:
    """No stack traces, documentation strings or paths: a file is its network only."""
    proto = exported.proto
    assert proto.ir_version == 10
    assert not proto.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)
    texts = [proto.doc_string, proto.graph.doc_string, proto.graph.name, proto.producer_name]
    assert not any(str(Path.home()) in text or ".py" in text for text in texts)
    assert not any(initializer.external_data for initializer in proto.graph.initializer)


@pytest.mark.parametrize("name", ["digits", "resnet-cifar-20", "squeezenet"])
def test_the_same_seed_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    """Two exports are one file, whatever the global random state; another seed gives other weights."""
    first = models.export_onnx(name, tmp_path / "a.onnx", seed=3).read_bytes()
    torch.manual_seed(99)
    before = torch.get_rng_state()
    second = models.export_onnx(name, tmp_path / "b.onnx", seed=3).read_bytes()
    assert first == second
    assert torch.equal(before, torch.get_rng_state())
    assert models.export_onnx(name, tmp_path / "c.onnx", seed=4).read_bytes() != first


def test_a_fixed_batch_is_written_as_such(tmp_path: Path) -> None:
    """``batch=3`` fixes the first dimension of input and output; opset and path are as asked for."""
    path = models.export_onnx("digits", tmp_path / "three.onnx", batch=3, opset=13)
    proto = onnx.load(path)
    dims = [v.type.tensor_type.shape.dim for v in (proto.graph.input[0], proto.graph.output[0])]
    assert [[d.dim_value for d in dim] for dim in dims] == [[3, 1, 8, 8], [3, 10]]
    assert [o.version for o in proto.opset_import] == [13]
    assert run_onnx(path, models.images(3, (1, 8, 8))).shape == (3, 10)


@pytest.mark.parametrize(("gain", "message"), [(1e-6, "do not vary"), (0.0, "not finite")])
def test_a_network_without_an_answer_is_refused(gain: float, message: str) -> None:
    """Outputs that vanish, or features that are one constant, cannot be tuned away."""

    class Faint(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return gain * self.fc(torch.flatten(x if gain else torch.ones_like(x), 1))

    with pytest.raises(UnsupportedError, match=message):
        tuned(Faint, (1, 8, 8), 0)


def test_an_unknown_name_lists_the_names() -> None:
    """The message carries the remedy."""
    with pytest.raises(UsageError, match=r"'resnet-19'.*resnet-18"):
        models.build("resnet-19")


def test_a_batch_below_one_is_refused(tmp_path: Path) -> None:
    """The message carries the value."""
    with pytest.raises(UsageError, match="got 0"):
        models.export_onnx("digits", tmp_path / "none.onnx", batch=0)
