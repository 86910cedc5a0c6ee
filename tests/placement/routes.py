"""Routes of multicasts on a mesh, walked link by link."""

from __future__ import annotations

from collections.abc import Iterable


def routed_links(source: int, targets: Iterable[int], columns: int) -> set[tuple[int, int]]:
    """Links, as pairs of nodes, of a multicast whose routes go along the row of the mesh first."""
    links: set[tuple[int, int]] = set()
    for target in targets:
        at = source
        while at != target:
            x, to_x = at % columns, target % columns
            after = at + (1 if to_x > x else -1) if x != to_x else at + (columns if target > at else -columns)
            links.add((at, after))
            at = after
    return links
