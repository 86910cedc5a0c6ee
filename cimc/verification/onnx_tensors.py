"""Every tensor of an ONNX model as onnxruntime computes it, without graph optimisation."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cimc.interpreters.host import open_session

if TYPE_CHECKING:
    from onnx import ModelProto

Array = npt.NDArray[Any]


def onnx_tensors(
    model: str | Path | ModelProto,
    feeds: Sequence[Mapping[str, Array]],
    batch: int,
    wanted: Collection[str],
) -> dict[str, list[Array]]:
    """The tensors ``wanted`` by name, one array a feed, as far as the model has them.

    ``batch``: frames the model takes at once where ``feeds`` hold one each, otherwise 1. The last group is filled
    up with its last frame; tensors that do not lead with the batch are left out.
    """
    session = open_session(_exposed(model, wanted))
    names = [value.name for value in session.get_outputs()]
    found: dict[str, list[Array]] = {name: [] for name in names}
    for start in range(0, len(feeds), batch):
        group = list(feeds[start : start + batch])
        filled = group + [group[-1]] * (batch - len(group))
        joined = {name: np.concatenate([feed[name] for feed in filled]) for name in filled[0]}
        for name, value in zip(names, session.run(None, joined), strict=True):
            if isinstance(value, np.ndarray) and (batch == 1 or _leads(value, batch)):
                parts = np.split(value, batch) if batch > 1 else [value]
                found[name].extend(parts[: len(group)])
    return {name: arrays for name, arrays in found.items() if len(arrays) == len(feeds)}


def _leads(value: Array, batch: int) -> bool:
    return value.ndim > 0 and value.shape[0] % batch == 0


def _exposed(model: str | Path | ModelProto, wanted: Collection[str]) -> bytes:
    """The model with the tensors ``wanted`` as outputs."""
    import onnx

    exposed = onnx.ModelProto()
    exposed.CopyFrom(onnx.load(str(model)) if isinstance(model, str | Path) else model)
    known = {value.name for value in exposed.graph.output}
    for node in exposed.graph.node:
        for name in node.output:
            if name in wanted and name not in known:
                known.add(name)
                exposed.graph.output.append(onnx.ValueInfoProto(name=name))
    return exposed.SerializeToString()
