"""What a generator may ask for: one of several, a number, an event. Answered from one seed.

The seed comes from hypothesis. Decisions do not: it repeats and mutates parts of earlier examples, and a tenth of the
examples would then have a mechanism by luck.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

T = TypeVar("T")


@dataclass(frozen=True)
class Choices:
    """Decisions of one example."""

    generator: np.random.Generator

    @staticmethod
    def of(seed: int) -> Choices:
        """The decisions that belong to ``seed``."""
        return Choices(np.random.default_rng(seed))

    def one_of(self, options: Sequence[T]) -> T:
        """One of ``options``, each as likely as it is often in the list."""
        return options[self.number(0, len(options) - 1)]

    def number(self, low: int, high: int) -> int:
        """An integer in [low, high]."""
        return int(self.generator.integers(low, high + 1))

    def happens(self, percent: int) -> bool:
        """True in about ``percent`` of 100 examples."""
        return self.number(0, 99) < percent
