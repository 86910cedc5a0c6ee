"""The frames a verification runs on: one array an input and frame, and how each level takes them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import ModuleOp

from cimc.calibration import CalibrationWarning, load_samples
from cimc.dialects.graph import INPUTS, main_function, main_names
from cimc.dialects.graph_types import shape_of
from cimc.dialects.row_layout import frame_shape
from cimc.interpreters.graph import numpy_type

if TYPE_CHECKING:
    from pathlib import Path

Array = npt.NDArray[Any]

MACS_PER_RUN = 4_000_000_000
"""Default frames are chosen so that a level computes about this many products, between the two bounds below."""
LEAST_FRAMES, MOST_FRAMES = 2, 16


@dataclass(frozen=True)
class Frames:
    """``feeds[i]``: the inputs of frame i by name, in the shapes the imported module declares."""

    feeds: tuple[Mapping[str, Array], ...]

    def __len__(self) -> int:
        return len(self.feeds)

    def streamed(self) -> dict[str, Array]:
        """All frames as level 3 and the program take them: (frames, *shape of a frame without the batch)."""
        return {
            name: np.stack([feed[name].reshape(frame_shape(feed[name].shape)) for feed in self.feeds])
            for name in self.feeds[0]
        }


def frames_of(source: str | Path | Mapping[str, Array], module: ModuleOp, limit: int | None = None) -> Frames:
    """The frames in ``source`` (as calibration data), at most ``limit`` of them.

    Raises ``UsageError`` for arrays that do not belong to the inputs of ``module``.
    """
    samples = load_samples(source, module)
    batches = {name: shape_of(value)[0] for name, value in _inputs(module).items()}
    count = samples.runs if limit is None else min(limit, samples.runs)
    return Frames(tuple(samples.run(index, batches) for index in range(count)))


def default_limit(total_macs: int) -> int:
    """Frames that a network of ``total_macs`` products a frame is verified on unless asked otherwise."""
    return int(np.clip(MACS_PER_RUN // max(total_macs, 1), LEAST_FRAMES, MOST_FRAMES))


def structured_inputs(module: ModuleOp, count: int = 8, seed: int = 0) -> dict[str, Array]:
    """Seeded inputs for a model without data: pictures where an input is one, else normal numbers, 0 and 1.

    Warns that ranges and agreement then say little about real data.
    """
    from cimc.models import images

    warnings.warn(
        "no inputs and no calibration data given: verifying on seeded pictures and numbers; levels are compared "
        "all the same, but accuracy says nothing about real data",
        CalibrationWarning,
        stacklevel=2,
    )
    generator = np.random.default_rng(seed)
    found: dict[str, Array] = {}
    for name, argument in _inputs(module).items():
        batch, *frame = shape_of(argument)
        wanted = numpy_type(argument.type)
        total = count * batch
        if wanted is None or wanted.kind != "f":
            drawn: Array = generator.integers(0, 2, (total, *frame))
        elif len(frame) == 3:
            drawn = images(total, (frame[0], frame[1], frame[2]), seed)
        else:
            drawn = generator.standard_normal((total, *frame))
        found[name] = drawn.astype(wanted)
    return found


def _inputs(module: ModuleOp) -> dict[str, Any]:
    return dict(zip(main_names(module, INPUTS), main_function(module).args, strict=True))
