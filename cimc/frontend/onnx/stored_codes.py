"""Constants that a model stores as integers, with the scale and zero point it stores them under."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_INTEGER = re.compile(r"(u?)int(\d+)")


@dataclass(frozen=True)
class Storage:
    """How an integer is stored: its width and whether it has a sign."""

    bits: int
    signed: bool

    @property
    def least(self) -> int:
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def most(self) -> int:
        return (1 << (self.bits - self.signed)) - 1

    def __str__(self) -> str:
        return f"{'' if self.signed else 'u'}int{self.bits}"


def storage_of(dtype: np.dtype[Any]) -> Storage | None:
    """The storage of integers of ``dtype``, 4-bit ones among them; ``None`` for anything else."""
    found = _INTEGER.fullmatch(dtype.name)
    return None if found is None else Storage(int(found[2]), not found[1])


@dataclass(frozen=True)
class StoredCodes:
    """A tensor of integers that stands for ``scale * (codes - zero)``.

    ``scale`` and ``zero`` have one entry, or one per entry along ``axis``.
    """

    codes: npt.NDArray[Any]
    storage: Storage
    scale: npt.NDArray[np.float32]
    zero: npt.NDArray[np.int64]
    axis: int | None

    def real(self) -> npt.NDArray[np.float32]:
        """The real values, by docs/numerics.md section 0 rule 2."""
        shifted = self.codes.astype(np.int64) - self._along(self.zero)
        return shifted.astype(np.float32) * self._along(self.scale)

    def _along(self, parameters: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if self.axis is None:
            return parameters.reshape(())
        return parameters.reshape([-1 if a == self.axis else 1 for a in range(self.codes.ndim)])

    def transposed(self, order: Sequence[int]) -> StoredCodes:
        """The same numbers with axis ``order[i]`` as axis ``i``."""
        axis = None if self.axis is None else list(order).index(self.axis)
        return StoredCodes(self.codes.transpose(order), self.storage, self.scale, self.zero, axis)

    def reshaped(self, shape: Sequence[int]) -> StoredCodes | None:
        """The same numbers under another shape; ``None`` where an axis carries scales."""
        if self.axis is not None:
            return None
        return StoredCodes(self.codes.reshape(shape), self.storage, self.scale, self.zero, None)

    def as_signed(self) -> StoredCodes:
        """Unsigned codes and their zero points lowered by half the range: the same real values."""
        width = 8 if self.storage.bits <= 8 else 16
        half = 0 if self.storage.signed else 1 << (self.storage.bits - 1)
        codes = (self.codes.astype(np.int64) - half).astype(f"int{width}")
        return StoredCodes(codes, Storage(self.storage.bits, True), self.scale, self.zero - half, self.axis)
