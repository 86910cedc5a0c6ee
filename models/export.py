"""Networks to ONNX files: the same bytes for the same weights, and nothing of this machine in them."""

from __future__ import annotations

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from cimc.diagnostics import UsageError
from cimc.models.registry import build, network

if TYPE_CHECKING:
    from torch import nn

IR_VERSION = 10


def export_onnx(
    name: str,
    path: str | Path,
    *,
    seed: int = 0,
    batch: int | Literal["dynamic"] = 1,
    opset: int = 17,
) -> Path:
    """Build network ``name`` from ``seed`` and write it to ``path``; return the path.

    Input ``x`` float32 [batch, *network(name).shape], output ``logits`` [batch, classes]. BatchNorms
    stay nodes of their own, weights are initializers.

    Raises
    ------
    UsageError
        If there is no such network or ``batch`` is less than 1.

    """
    return export_module(build(name, seed), network(name).shape, path, batch=batch, opset=opset)


def export_module(
    module: nn.Module,
    shape: tuple[int, int, int],
    path: str | Path,
    *,
    batch: int | Literal["dynamic"] = 1,
    opset: int = 17,
) -> Path:
    """Write a module of one input ``x`` [batch, *shape] and one output ``logits``; return the path."""
    import onnx
    import torch

    if batch != "dynamic" and batch < 1:
        raise UsageError(f"export: batch must be at least 1 or 'dynamic', got {batch}")
    example = torch.zeros(2 if batch == "dynamic" else batch, *shape)
    axes = {"x": {0: "batch"}, "logits": {0: "batch"}} if batch == "dynamic" else None
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        draft = Path(folder, "draft.onnx")
        # The exporter through TorchScript is deprecated but writes GlobalAveragePool and Flatten as such,
        # names nodes by module scope, and takes opset 17; the newer one writes ReduceMean and Reshape.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            module,
            (example,),
            draft,
            dynamo=False,
            opset_version=opset,
            input_names=["x"],
            output_names=["logits"],
            dynamic_axes=axes,
            training=torch.onnx.TrainingMode.PRESERVE,  # evaluation, but do not fold BatchNorm
            do_constant_folding=False,
        )
        model = onnx.load(draft)
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    target = Path(path)
    target.write_bytes(model.SerializeToString(deterministic=True))
    return target
