"""Weights stay out of the IR: an in-memory store of arrays, and the attribute that names one.

The IR says ``#graph.ref<"conv1.weight">``; the numbers are in the :class:`WeightStore`, which is
written next to the program as one safetensors file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import StringAttr
from xdsl.ir import Attribute, ParametrizedAttribute
from xdsl.irdl import irdl_attr_definition, param_def
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

from cimc.diagnostics import UsageError

_STORABLE = frozenset("?bBhHiIlLqQefd")
"""numpy type characters that safetensors holds: bool, integers, float16, float32, float64."""


@irdl_attr_definition
class WeightRefAttr(ParametrizedAttribute):
    """The name of an array in the weight store: ``#graph.ref<"conv1.weight">``."""

    name = "graph.ref"

    key: StringAttr = param_def()

    @staticmethod
    def of(key: str) -> WeightRefAttr:
        """The reference to ``key``."""
        return WeightRefAttr(StringAttr(key))

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        with parser.in_angle_brackets():
            return [StringAttr(parser.parse_str_literal(" as the key of a weight"))]

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_string_literal(self.key.data)

    def verify(self) -> None:
        if not self.key.data:
            raise VerifyException("a weight reference needs a key that is not empty")


class WeightStore:
    """Arrays by key. What was put in is never changed: arrays come back read-only."""

    def __init__(self) -> None:
        self._arrays: dict[str, npt.NDArray[Any]] = {}
        self._digests: dict[str, str] = {}

    def put(self, key: str, array: npt.ArrayLike) -> str:
        """Store a read-only copy of ``array`` and return ``key``.

        Putting equal contents twice is fine; other contents under a used key raise ``ValueError``,
        as do element types that a safetensors file cannot hold.
        """
        # order="C" and not ascontiguousarray, which would turn a scalar into one element.
        value = np.array(array, order="C")
        if value.dtype.char not in _STORABLE:
            raise ValueError(f"weight {key!r} has element type {value.dtype}, which a store cannot hold")
        value.flags.writeable = False
        old = self._arrays.get(key)
        if old is None:
            self._arrays[key] = value
            return key
        if old.dtype != value.dtype or old.shape != value.shape or old.tobytes() != value.tobytes():
            raise ValueError(f"weight {key!r} is in the store already, with other contents")
        return key

    def fresh(self, stem: str) -> str:
        """A key that is not used yet: ``stem``, or ``stem.1``, ``stem.2`` ..."""
        if stem not in self._arrays:
            return stem
        number = 1
        while f"{stem}.{number}" in self._arrays:
            number += 1
        return f"{stem}.{number}"

    def array(self, key: str) -> npt.NDArray[Any]:
        """The array under ``key``, read-only. Raises ``KeyError`` that names the key."""
        if key not in self._arrays:
            raise KeyError(f"no weight {key!r} in the store of {len(self._arrays)}")
        return self._arrays[key]

    def __contains__(self, key: object) -> bool:
        return key in self._arrays

    def keys(self) -> tuple[str, ...]:
        """All keys, sorted."""
        return tuple(sorted(self._arrays))

    def sha256(self, key: str) -> str:
        """Hash of element type, shape and contents, as 64 hexadecimal digits."""
        if key in self._digests:
            return self._digests[key]
        array = self.array(key)
        digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
        self._digests[key] = digest.hexdigest()
        return self._digests[key]

    def save(self, path: Path) -> None:
        """Write a safetensors file; equal contents give equal bytes."""
        from safetensors.numpy import save_file

        save_file({key: self._arrays[key] for key in self.keys()}, str(path))

    @classmethod
    def load(cls, path: Path) -> WeightStore:
        """Read what :meth:`save` wrote. Raises ``UsageError`` for a missing or damaged file."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        store = cls()
        try:
            arrays = load_file(str(path))
        except (OSError, SafetensorError) as error:
            raise UsageError(f"cannot read the weights: {error}", where=path.name) from error
        for key, array in arrays.items():
            store.put(key, array)
        return store
