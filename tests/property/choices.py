"""What a generator may ask for: one of several, a number, an event. Answered by hypothesis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from hypothesis import strategies as st

T = TypeVar("T")


@dataclass(frozen=True)
class Choices:
    """Decisions of one example; hypothesis shrinks them towards first entries, low numbers and no."""

    draw: Callable[[st.SearchStrategy[Any]], Any]

    def one_of(self, options: Sequence[T]) -> T:
        """One of ``options``, each as likely as it is often in the list."""
        return options[self.draw(st.integers(0, len(options) - 1))]

    def number(self, low: int, high: int) -> int:
        """An integer in [low, high]."""
        return self.draw(st.integers(low, high))

    def happens(self, percent: int) -> bool:
        """True in about ``percent`` of 100 examples."""
        return self.draw(st.integers(0, 99)) >= 100 - percent
