"""The program comes to its end at the given depths, with rings empty and events balanced (P080 to P084)."""

from __future__ import annotations

import numpy as np

from cimc.runtime.program.opcodes import BufferKind, Opcode
from cimc.runtime.verifier.code import Decoded, Step
from cimc.runtime.verifier.flow import (
    BASE,
    C_PC,
    C_STATE,
    HALTED,
    LEVEL,
    R_BASE,
    R_FILL,
    R_FREED,
    R_PLACES,
    R_RECEIVED,
    R_SLOTS,
    STRIDE,
    STUCK,
    TARGET,
    TWICE,
    N,
    Network,
    build_network,
    run,
    wanted_place,
)
from cimc.runtime.verifier.operands import Tables

_MOST = 10
"""Contexts listed of a deadlock."""


def check_flow(decoded: Decoded, tables: Tables) -> None:
    """Run on row counts and report what stops the run or is left over."""
    network = build_network(decoded, tables, np.array(tables.buffers["slots"]))
    status, context, ring = run(network, decoded.images)
    if status == TWICE:
        message = f"a row arrives at ring {ring} for a place that is full or was received already"
        decoded.report("P072", message, step_at(decoded, network, context))
        return
    if status == STUCK:
        for step, message in blocked(decoded, network)[:_MOST]:
            decoded.report("P080", message, step)
        return
    _check_end(decoded, tables, network)


def step_at(decoded: Decoded, network: Network, context: int) -> Step:
    """The step a context stands at."""
    index = int(network.source[network.contexts[context, C_PC], 1])
    steps = decoded.steps[context]
    return steps[index - steps[0].number]


def blocked(decoded: Decoded, network: Network) -> list[tuple[Step, str]]:
    """Contexts that did not halt, and what each waits for; those that wait for room first."""
    found: list[tuple[int, Step, str]] = []
    for context in np.flatnonzero(network.contexts[:, C_STATE] != HALTED):
        step = step_at(decoded, network, int(context))
        pc = network.contexts[context, C_PC]
        target = int(network.code[pc, TARGET])
        if step.row.opcode == Opcode.SEND:
            found.append((0, step, _no_room(network, int(context), int(pc))))
        elif step.row.opcode == Opcode.RECV:
            found.append((1, step, _not_full(network, target, int(network.code[pc, N]))))
        elif step.row.opcode == Opcode.WAIT:
            count = int(network.events[target, 0])
            text = f"waits for {network.code[pc, N]} of event {target}, which stands at {count}; nobody signals it"
            found.append((2, step, text))
    return [(step, text) for _, step, text in sorted(found, key=lambda item: (item[0], item[1].context))]


def _no_room(network: Network, context: int, pc: int) -> str:
    counters = network.counters[context]
    row = int(network.code[pc, BASE] + (network.strides[network.code[pc, STRIDE]] * counters).sum())
    image = int(counters[0]) if network.code[pc, LEVEL] else 0
    first, count = network.route_sets[network.code[pc, TARGET]].tolist()
    full: list[str] = []
    for ring in dict.fromkeys(network.routes[first : first + count, 0].tolist()):
        slots, freed = network.rings[ring, R_SLOTS], network.rings[ring, R_FREED]
        if wanted_place(network.rings, ring, row, image) >= freed + slots:
            full.append(f"{ring} ({slots} slots)")
    return f"deadlock: row {row} of image {image} finds no room in ring {', '.join(full)}; give it more slots"


def _not_full(network: Network, ring: int, n: int) -> str:
    record = network.rings[ring]
    for place in range(int(record[R_RECEIVED]), int(record[R_RECEIVED]) + n):
        at = int(record[R_BASE]) + place
        arrived = int(network.filled[at]) if at < len(network.filled) else 0
        if arrived < record[R_FILL]:
            length = int(record[R_PLACES])
            return (
                f"deadlock: place {place % length} of image {place // length} in ring {ring} never becomes full,"
                f" {arrived} of {record[R_FILL]} elements arrived"
            )
    return f"deadlock: waits for ring {ring}"


def _check_end(decoded: Decoded, tables: Tables, network: Network) -> None:
    for ring, kind in enumerate(tables.buffers["kind"]):
        if kind != BufferKind.RING:
            continue
        record = network.rings[ring]
        wanted = int(record[R_PLACES]) * decoded.images
        if record[R_RECEIVED] != wanted or record[R_FREED] != wanted:
            decoded.report(
                "P083",
                f"ring {ring}: {record[R_RECEIVED]} places received and {record[R_FREED]} freed of {wanted} in"
                f" {decoded.images} images",
                node=decoded.buffer_node(ring),
            )
    initial = decoded.program["events"]["initial"].tolist()
    waits = {s.row.imm: s for s in decoded.all() if s.row.opcode == Opcode.WAIT}
    signals = {s.row.imm: s for s in decoded.all() if s.row.opcode == Opcode.SIGNAL}
    for event, (count, first) in enumerate(zip(network.events[:, 0].tolist(), initial, strict=True)):
        if count != first:
            decoded.report(
                "P084",
                f"event {event} starts at {first} and ends at {count}; signals and waits must balance",
                waits.get(event, signals.get(event)),
            )
