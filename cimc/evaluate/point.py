"""One point of an evaluation: one chip under one group of settings, measured on all samples."""

from __future__ import annotations

from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.api import Artifact, load
from cimc.arrays_io import read_arrays
from cimc.device_run import DeviceRun
from cimc.diagnostics import UsageError
from cimc.evaluate import metrics
from cimc.evaluate.settings import DIGITAL, TIME, Settings, device_with
from cimc.runtime.device.loader import load_device

Array = npt.NDArray[Any]

LABELS, TOKENS, REFERENCE = "labels", "tokens", "reference"
"""Arrays of a data file that are no inputs: classes, a text, and what the outputs are compared with."""

NEEDS = {
    "top1": LABELS,
    "top5": LABELS,
    "perplexity": TOKENS,
    "cosine": REFERENCE,
    "relative_error": REFERENCE,
}
"""The metrics, and the array that each is measured against."""

LOWER_IS_BETTER = frozenset({"perplexity", "relative_error"})

SEPARATOR = "|"
"""Between the stages of the setting ``digital``."""


@dataclass(frozen=True)
class Request:
    """What all points share: plain values, so that it can be sent to a worker."""

    data: str
    """``.npz`` with the inputs by name and what the metrics need."""
    device: str
    metrics: tuple[str, ...]
    seed: int = 0
    output: str = ""
    """The output that is measured; empty: the only one."""


def evaluate_point(request: Request, artifact: str, settings: Settings, chip: int) -> dict[str, float]:
    """The metrics of one chip. Raises ``CimError`` as :func:`~cimc.api.load` and the device do."""
    given = dict(settings)
    device = device_with(load_device(request.device), given)
    digital = tuple(escape(name) for name in str(given.get(DIGITAL, "")).split(SEPARATOR) if name)
    run = DeviceRun(device, request.seed, chip, float(given.get(TIME, 0.0)), digital)
    return measure(load(artifact), read_arrays(Path(request.data)), run, request)


def measure(
    artifact: Artifact, data: dict[str, Array], run: DeviceRun | None, request: Request
) -> dict[str, float]:
    """The metrics of ``artifact`` on ``data``: on a chip, or of the float model where ``run`` is None."""

    def outputs(inputs: dict[str, Array]) -> Array:
        if run is None:
            found = artifact.run(inputs, engine="graph")
        else:
            found = artifact.run(inputs, engine="device", device=run)
        return np.asarray(found.outputs[output_name(artifact, request.output)])

    measured: dict[str, float] = {}
    scored = [name for name in request.metrics if NEEDS[name] != TOKENS]
    if scored:
        made = outputs({name: array for name, array in data.items() if name not in NEEDS.values()})
        for name in scored:
            measured[name] = _score(name, made, data[NEEDS[name]])
    if "perplexity" in request.metrics:
        measured["perplexity"] = _perplexity(artifact, data[TOKENS], outputs)
    return {name: measured[name] for name in request.metrics}


def output_name(artifact: Artifact, asked: str) -> str:
    """The output called ``asked``, or the only one. Raises ``UsageError``."""
    names = [io.name for io in artifact.program.io if io.direction == "out"]
    if not asked and len(names) == 1:
        return names[0]
    if asked not in names:
        raise UsageError(
            f"the model has the outputs {', '.join(names)}; name one with --output-name, given '{asked}'"
        )
    return asked


def check_data(artifact: Artifact, data: dict[str, Array], wanted: tuple[str, ...], path: str) -> None:
    """Raise ``UsageError`` unless ``data`` has what inputs and metrics need, before any work."""
    inputs = [io.name for io in artifact.program.io if io.direction == "in"]
    needed = {NEEDS[name] for name in wanted if NEEDS[name] != REFERENCE}
    if set(NEEDS[name] for name in wanted) - {TOKENS}:
        needed |= set(inputs)
    missing = sorted(needed - set(data))
    if missing:
        raise UsageError(
            f"lacks {', '.join(missing)}; {', '.join(wanted)} of this model need {', '.join(sorted(needed))}",
            where=path,
        )
    if TOKENS in needed and len(inputs) != 1:
        raise UsageError(f"perplexity takes a model with one input of tokens, this has {', '.join(inputs)}")


def _score(name: str, found: Array, against: Array) -> float:
    match name:
        case "top1":
            return metrics.top_k(found, against, 1)
        case "top5":
            return metrics.top_k(found, against, 5)
        case "cosine":
            return metrics.cosine_similarity(found, against)
        case _:
            return metrics.relative_error(found, against)


def _perplexity(artifact: Artifact, tokens: Array, outputs: Any) -> float:
    """A compiled model has one length: its context; windows overlap by half of it."""
    (source,) = (io for io in artifact.program.io if io.direction == "in")
    context = int(np.prod(source.shape))
    if len(tokens) < context:
        raise UsageError(
            f"the model reads {context} tokens at once, the text has {len(tokens)}", where=TOKENS
        )

    def logits_of(given: Array) -> Array:
        found = outputs({source.name: given})
        return found.reshape(1, context, -1)

    return metrics.perplexity(logits_of, tokens, context=context, stride=max(1, context // 2))
