"""Python's collector of reference cycles, seldom at work while a compile makes objects that stay."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager

ALLOCATIONS = 500_000
"""Objects made and not freed between two collections. The default of 700 looks at every operation of a module, and at
all that torch brings, again and again: a fifth of the compile of ResNet-50 (docs/measurements.md)."""


@contextmanager
def rare_collections() -> Generator[None]:
    """Collect after :data:`ALLOCATIONS` objects; what was set before holds again afterwards.

    A collector that is off stays off.
    """
    before = gc.get_threshold()
    gc.set_threshold(max(before[0], ALLOCATIONS) if before[0] else 0, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
