"""Whether outputs vary: equality on outputs that are all alike proves little."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

FRAMES, CODES, CLASSES = 8, 16, 2
"""Frames from which classes are counted; least distinct codes and top-1 classes of outputs that vary."""


def variation_warnings(name: str, frames: Sequence[npt.NDArray[Any]]) -> list[str]:
    """Sentences about an output that takes too few values, or one top-1 class on many frames."""
    found: list[str] = []
    distinct = len(np.unique(np.concatenate([frame.reshape(-1) for frame in frames])))
    if distinct < CODES:
        found.append(
            f"output '{name}' takes {distinct} distinct values in {len(frames)} frames, below {CODES}: "
            "equal levels prove little on it; give inputs that differ more"
        )
    classes = {int(frame.argmax()) for frame in frames if frame.size > 1}
    if len(frames) >= FRAMES and 0 < len(classes) < CLASSES:
        found.append(
            f"output '{name}' has the same largest element in all {len(frames)} frames: give inputs that differ more"
        )
    return found
