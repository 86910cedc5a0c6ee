"""Python's collector of reference cycles, seldom at work while a compile makes objects that stay."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Generator
from contextlib import contextmanager

ALLOCATIONS = 2_000_000
"""Objects made and not freed between two collections. The default of 700 looks at every operation of a module, and at
all that was imported, again and again: a fifth of the compile of ResNet-50 (docs/measurements.md). What is garbage in
between takes some MB."""


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


def no_collection_at_exit() -> None:
    """Let the process end without a last collection: the system takes its memory back as a whole.

    Behind the compile of ResNet-50 that collection takes half a second.
    """
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
