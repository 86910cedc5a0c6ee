"""Which core of the mesh takes which group of contexts, so that few bytes cross few links.

Groups (what one core holds) come from the packing; cores are alike, so any permutation of groups fits as well. The
price is exact: bytes of an image x links of their multicast trees, as the cycle engine counts them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.passes.place.mesh_search import anneal, costs_of
from cimc.passes.place.multicasts import Multicasts
from cimc.passes.place.traffic import Flow

Ints = npt.NDArray[np.int64]

WORK, WORK_EACH = 10_000_000, 50_000
"""Targets of multicasts that one search looks at, at most (a tenth to a third of a second), and for each there is."""

LEAF = 8
"""Blocks that are no longer halved but put down in their order; the search behind it sees to them."""


@dataclass(frozen=True)
class Mesh:
    """Cores 0 ... cores - 1 row by row on ``columns`` columns; ``chip`` is the node of the global buffer."""

    columns: int
    cores: int
    chip: int

    @staticmethod
    def of(arch: Any) -> Mesh | None:
        """The mesh of a machine; ``None`` on a bus, where every place is as good."""
        network = arch.network
        if network.kind != "mesh":
            return None
        return Mesh(network.columns, arch.chip.cores, network.global_buffer_node)


def between_blocks(flows: Sequence[Flow], block_of: Mapping[int, int], blocks: int) -> Multicasts:
    """Flows between contexts as multicasts between their blocks, loads in bytes; contexts not in ``block_of`` are on
    the chip."""
    merged: dict[tuple[int, tuple[int, ...]], int] = {}
    for flow in flows:
        source = block_of.get(flow.source, blocks)
        targets = tuple(sorted({block_of.get(t, blocks) for t in flow.targets} - {source}))
        if targets:
            merged[source, targets] = merged.get((source, targets), 0) + flow.size_bytes
    return Multicasts.of(list(merged), list(merged.values()), blocks + 1)


def hop_bytes(casts: Multicasts, place: Ints, mesh: Mesh) -> int:
    """Bytes x links of an image; ``place``: node of every block."""
    return int(costs_of(casts, place, mesh.columns).sum())


def arrange(casts: Multicasts, start: Ints, mesh: Mesh, *, work: int = WORK) -> Ints:
    """Nodes of the blocks: the best of ``start``, a partition of the blocks' graph, and a search from the better one.

    ``start``: node of every block, the chip last. Never worse than ``start`` in :func:`hop_bytes`. The same
    input gives the same nodes; with pymetis installed the partition is METIS's, which may give others.
    """
    if not len(casts.source):
        return start
    candidates = [start, partitioned(casts, mesh)]
    best = min(candidates, key=lambda place: hop_bytes(casts, place, mesh))
    return anneal(casts, best, mesh.cores, mesh.columns, min(work, WORK_EACH * len(casts.target)))


def partitioned(casts: Multicasts, mesh: Mesh) -> Ints:
    """Blocks in halves, quarters ... of the mesh, each cut through little traffic.

    The half with more traffic to the chip goes to the side of the global buffer. Blocks take the smallest square of
    cores beside the global buffer that holds them all.
    """
    nodes = np.arange(mesh.cores, dtype=np.int64)
    away = np.maximum(
        np.abs(nodes % mesh.columns - mesh.chip % mesh.columns),
        np.abs(nodes // mesh.columns - mesh.chip // mesh.columns),
    )
    count = casts.ends - 1
    near = nodes[away <= np.partition(away, count - 1)[count - 1]] if count else nodes
    place = np.full(casts.ends, mesh.chip, np.int64)
    _halve(list(range(count)), near, _pairs(casts), place, mesh)
    return place


def _pairs(casts: Multicasts) -> dict[int, dict[int, int]]:
    """Bytes between every two blocks, each target of a multicast on its own."""
    weights: dict[int, dict[int, int]] = {block: {} for block in range(casts.ends)}
    for f, source in enumerate(casts.source.tolist()):
        size = int(casts.load[f])
        for target in casts.target[casts.first[f] : casts.first[f + 1]].tolist():
            weights[source][target] = weights[source].get(target, 0) + size
            weights[target][source] = weights[target].get(source, 0) + size
    return weights


def _halve(
    blocks: list[int], nodes: Ints, weights: dict[int, dict[int, int]], place: Ints, mesh: Mesh
) -> None:
    """Put ``blocks`` on ``nodes``, the longer side of these cut in two first."""
    if len(blocks) <= LEAF:
        place[blocks] = nodes[: len(blocks)]
        return
    x, y = nodes % mesh.columns, nodes // mesh.columns
    wide = int(np.ptp(x)) >= int(np.ptp(y))
    order = np.lexsort((y, x) if wide else (x, y))
    middle = len(nodes) // 2
    sides = [np.sort(nodes[order[:middle]]), np.sort(nodes[order[middle:]])]
    share = min(len(sides[0]), max(len(blocks) - len(sides[1]), round(len(blocks) * middle / len(nodes))))
    one, other = bisect(blocks, share, weights)
    chip = len(place) - 1
    toward = [sum(weights[b].get(chip, 0) for b in part) / max(1, len(part)) for part in (one, other)]
    if len(one) <= len(sides[1]) and len(other) <= len(sides[0]) and toward[1] > toward[0]:
        one, other = other, one
    _halve(one, sides[0], weights, place, mesh)
    _halve(other, sides[1], weights, place, mesh)


def bisect(blocks: list[int], share: int, weights: dict[int, dict[int, int]]) -> tuple[list[int], list[int]]:
    """``share`` of the blocks and the rest, with little traffic between them.

    METIS where pymetis is installed, its parts evened out to the exact share; else grown from the first block,
    always by the one with the most traffic to those taken.
    """
    inside = set(blocks)
    taken: list[int] = []
    if find_spec("pymetis") is not None and 0 < share < len(blocks):
        taken = _metis(blocks, share, weights, inside)
    first = set(taken)
    gain = {b: 0 for b in blocks if b not in first}
    for b in taken:
        for other, size in weights[b].items():
            if other in gain:
                gain[other] += size
    while len(taken) < share:
        best = max(gain, key=lambda b: (gain[b], -b))
        del gain[best]
        taken.append(best)
        for other, size in weights[best].items():
            if other in gain:
                gain[other] += size
    chosen = set(taken)
    return [b for b in blocks if b in chosen], [b for b in blocks if b not in chosen]


def _metis(blocks: list[int], share: int, weights: dict[int, dict[int, int]], inside: set[int]) -> list[int]:
    """At most ``share`` blocks of METIS's first part, those with the least traffic inside it left out."""
    pymetis = import_module("pymetis")
    number = {b: i for i, b in enumerate(blocks)}
    heaviest = max((size for b in blocks for size in weights[b].values()), default=1)
    starts, adjacent, sizes = [0], [], []
    for b in blocks:
        for other, size in weights[b].items():
            if other in inside:
                adjacent.append(number[other])
                sizes.append(1 + size * 1_000_000 // heaviest)  # METIS takes 32-bit weights of at least 1
        starts.append(len(adjacent))
    portions = [share / len(blocks), 1 - share / len(blocks)]
    _, part = pymetis.part_graph(
        2,
        pymetis.CSRAdjacency(starts, adjacent),
        eweights=sizes,
        tpwgts=portions,
        options=pymetis.Options(seed=1),
    )
    mine = [b for b, p in zip(blocks, part, strict=True) if p == 0]
    chosen = set(mine)
    mine.sort(key=lambda b: -sum(size for other, size in weights[b].items() if other in chosen))
    return mine[:share]


def plan(
    flows: Sequence[Flow], core_of: Mapping[int, int], mesh: Mesh, *, work: int = WORK
) -> dict[int, int]:
    """The core that takes the contents of each core in use.

    ``core_of``: core of every context that has one; contexts without are on the chip.
    """
    cores = sorted(set(core_of.values()))
    number = {core: block for block, core in enumerate(cores)}
    casts = between_blocks(flows, {c: number[core] for c, core in core_of.items()}, len(cores))
    place = arrange(casts, np.array([*cores, mesh.chip], np.int64), mesh, work=work)
    return dict(zip(cores, place.tolist(), strict=False))
