"""AlexNet in Caffe's grouped form, against the published counts, and its normalisation in ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from cimc import models
from cimc.models.alexnet import SHAPE, AlexNet
from cimc.models.export import export_module


# bvlc_alexnet has 60,965,224 weights and biases, and rows of 54, 26, 12 and 6 pixels on images of 224.
def test_weights_and_sizes_are_the_published_ones():
    with torch.device("meta"):
        module = AlexNet()
        sizes: list[int] = []
        x = torch.empty(1, *SHAPE)
        for layer in module.features:
            x = layer(x) if not type(layer).__name__.endswith("Norm") else x
            if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
                sizes.append(x.shape[-1])
    assert sum(p.numel() for p in module.parameters()) == 60_965_224
    assert sizes == [54, 26, 26, 12, 12, 12, 12, 6]


# The normalisation is one LRN node, which onnxruntime computes as torch does.
def test_normalisation_is_one_node(tmp_path: Path):
    import onnxruntime

    with torch.device("meta"):
        norm = AlexNet().features[2]
    module = nn.Sequential(norm, nn.Flatten())
    path = export_module(module, (8, 5, 5), tmp_path / "norm.onnx")
    assert [n.op_type for n in onnx.load(path).graph.node] == ["LRN", "Flatten"]
    x = models.images(1, (8, 5, 5), seed=2)
    (found,) = onnxruntime.InferenceSession(path).run(None, {"x": x})
    expected = nn.functional.local_response_norm(torch.from_numpy(x), 5, 1e-4, 0.75, 1.0).numpy()
    np.testing.assert_allclose(np.asarray(found), expected.reshape(1, -1), rtol=1e-6)
