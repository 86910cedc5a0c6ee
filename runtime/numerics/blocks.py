"""Walking a large array in pieces that stay in the cache.

A digital operator is five or six numpy passes. Over a whole feature map each pass goes to main
memory; over a piece of 256 KiB it does not. Pieces never change a result: every function of this
package is element-wise along the axis that is cut.
"""

from __future__ import annotations

from collections.abc import Iterator

BLOCK_ELEMENTS = 1 << 16
"""Elements a piece: 256 KiB of float32, within the second-level cache of the cores in use."""


def row_blocks(rows: int, width: int) -> Iterator[slice]:
    """Slices that cover ``rows`` rows of ``width`` elements, each about :data:`BLOCK_ELEMENTS` elements."""
    step = max(1, BLOCK_ELEMENTS // max(1, width))
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))
