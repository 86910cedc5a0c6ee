"""What a run returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class RunResult:
    """What one run gave. Arrays have the batch as their first extent."""

    outputs: Mapping[str, Array]
    """Real values: float32, or the element type of an output that never was float."""
    integer_outputs: Mapping[str, Array]
    """Codes of the outputs that are codes; empty for engine ``graph``."""
    taps: Mapping[str, Array] = field(default_factory=dict[str, Array])
    """The tensors asked for: codes where the tensor is codes at that level."""
    array_macs: int = 0
    """Multiply-accumulates done by executed ``read_*`` (engine ``program`` only)."""
    total_macs: int = 0
    """Multiply-accumulates the model asks for in Conv, ConvTranspose, Gemm and MatMul by a constant."""
    executed_instructions: int = 0
    """Rows issued in the expanded loops without ``loop``, ``end``, ``halt``, ``wait`` (``program`` only)."""
