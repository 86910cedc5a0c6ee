"""How the kernel's functions are compiled: over a bare pointer to the memory.

A pointer is one word and has no reference count and no wrap-around of negative indices; with arrays in their
signatures the same functions took five times as long. Whoever calls the kernel keeps the array alive.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from numba import njit, types
from numba.extending import intrinsic

from cimc.runtime.cycle.layout import Int, Memory

jit = njit(error_model="numpy")
"""Compile a function of the kernel; divisors are never zero, so no check that raises is wanted."""


def _as_pointer(typing_context: Any, address: Any) -> Any:
    """An address as a pointer to int64."""

    def convert(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.int64)(address), convert


_pointer = cast("Callable[[int], Memory]", intrinsic(_as_pointer))


@jit
def memory_of(array: Int) -> Memory:
    """The memory behind an array."""
    return _pointer(array.ctypes.data)
