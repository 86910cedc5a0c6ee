"""Multicasts between numbered ends, in compressed rows: what the compiled searches over a mesh read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


class Multicasts(NamedTuple):
    """Multicasts between ends (blocks of contexts, or contexts); the last end is the chip.

    Searches compiled for these fields are kept until their own files change: after an edit here, delete
    ``__pycache__/*.nb*`` of this folder.
    """

    source: Ints
    """End that sends."""
    first: Ints
    target: Ints
    """Ends that take number f: ``target[first[f]:first[f + 1]]``."""
    load: Ints
    """What each puts on every link of its tree: bytes, or cycles."""
    touch_first: Ints
    touch: Ints
    """Numbers of those that end e sends or takes: ``touch[touch_first[e]:touch_first[e + 1]]``."""

    @staticmethod
    def of(ways: Sequence[tuple[int, Sequence[int]]], loads: Sequence[int], ends: int) -> Multicasts:
        """``ways``: source and targets of each; ``ends``: how many, the chip among them."""
        lengths = np.array([len(targets) for _, targets in ways], np.int64)
        source = np.array([source for source, _ in ways], np.int64)
        target = np.array([end for _, targets in ways for end in targets], np.int64)
        numbers = np.arange(len(ways), dtype=np.int64)
        touched = np.concatenate([source, target])
        order = np.argsort(touched, kind="stable")
        return Multicasts(
            source,
            _begins(lengths),
            target,
            np.array(loads, np.int64),
            _begins(np.bincount(touched, minlength=ends)),
            np.concatenate([numbers, np.repeat(numbers, lengths)])[order],
        )

    @property
    def ends(self) -> int:
        """How many there are, the chip among them."""
        return len(self.touch_first) - 1


def _begins(lengths: Ints) -> Ints:
    """Where each of as many runs begins, and the end of the last."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
