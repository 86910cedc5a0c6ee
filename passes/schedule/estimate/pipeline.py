"""When every row of one image is sent: the pipeline of all stages as a recurrence over rows, phase by phase.

A phase alone is a :class:`~cimc.passes.schedule.estimate.flow.Flow`.
"""

from __future__ import annotations

from collections.abc import Sequence

from cimc.passes.schedule.estimate.flow import Rows, rows_in, through_phases
from cimc.passes.schedule.estimate.nodes import Timing


def latency(nodes: Sequence[Timing]) -> int:
    """Cycles of one image that runs alone."""
    if not nodes:
        return 0
    sent, _, first = through_phases(nodes, *_phases(nodes))
    return int(sent[first[1:] - 1].max())


def pipeline(nodes: Sequence[Timing]) -> list[Rows]:
    """Rows of every node of one image, with rings that always have room.

    A context sends its piece j at ``F_j = max(F_{j-1} + t_j, b_j)``, where t_j is what the piece takes and b_j when its
    rows are there plus its own work. With d copies that is d recurrences (``recurrence.py``).
    """
    phases, moved = _phases(nodes)
    rows = rows_in(*through_phases(nodes, phases, moved))
    done = dict(zip((number for phase in phases for number in phase), rows, strict=True))
    return [done[number] for number in range(len(nodes))]


def _phases(nodes: Sequence[Timing]) -> tuple[list[list[int]], list[int]]:
    """The nodes of every phase, and cycles of the global buffer's port for rows that it takes from others or leaves."""
    phases: dict[int, list[int]] = {}
    for number, node in enumerate(nodes):
        phases.setdefault(node.phase, []).append(number)
    found = [members for _, members in sorted(phases.items())]
    if len(found) == 1:
        return found, [0]
    last = last_uses(nodes)
    known: dict[int, int] = {}
    moved: list[int] = []
    for members in found:
        kept = [n for n in members if nodes[last[n]].phase > nodes[n].phase]
        # A node that is alone takes all its rows from other phases: as much as others with the same edges.
        alike = id(nodes[members[0]].edges) if len(members) == 1 else 0
        if not alike or alike not in known:
            known[alike] = fetched(nodes, members)
        moved.append(known[alike] + left(nodes, kept))
    return found, moved


def last_uses(nodes: Sequence[Timing]) -> list[int]:
    """The last node that takes rows of each node; itself without any."""
    found = list(range(len(nodes)))
    # Phases of a large operator share their edges: the last of them counts.
    for number, edges in {id(node.edges): (number, node.edges) for number, node in enumerate(nodes)}.values():
        for edge in edges:
            found[edge.source] = max(found[edge.source], number)
    return found


def fetched(nodes: Sequence[Timing], members: Sequence[int]) -> int:
    """Cycles of the global buffer's port for rows that a phase of ``members`` gets from phases before it."""
    outside = {edge.source for n in members for edge in nodes[n].edges}.difference(members)
    return sum(nodes[n].rows * nodes[n].parts for n in outside)


def left(nodes: Sequence[Timing], kept: Sequence[int]) -> int:
    """Cycles of the port for rows of ``kept`` nodes that wait for later phases: they arrive, and are copied into the
    frame that waits."""
    return sum(2 * nodes[n].rows * nodes[n].parts for n in kept)
