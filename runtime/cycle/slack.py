"""How late every instruction of a run may issue, whatever the order, so that all is done by a deadline.

A run in which ports, links, vector units and host link serve everybody at once leaves a record of every issue
(:class:`~cimc.runtime.cycle.prepare.Options`, ``issues``); the earliest cycles are in it. From the last record to the
first, each takes the latest cycle that those behind it allow: the next instruction of its context a cycle later; who
reads the slot it writes, when that is written; the next read of its array set, when the set is free; who receives what
it sends, when that has arrived over empty links; who sends into what it frees. Every one of these holds in any run, so
no schedule that keeps the deadline issues an instruction later. What shares a unit is not among them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from cimc.runtime.cycle import layout as y
from cimc.runtime.cycle.engine import run_prepared, warm_up
from cimc.runtime.cycle.layout import Int
from cimc.runtime.cycle.prepare import Options, Prepared, prepare
from cimc.runtime.program import Program

MOST_ISSUES = 1 << 23
"""Records kept of a run: 0.4 GB, and three times as much beside them while they are gone through."""
_NEVER = 1 << 62
_TARGET = -1
"""Stands for the operation of a target of a send."""


class Work(NamedTuple):
    """What spends energy between the first cycle it can begin and the last; int64 [pieces] each."""

    earliest: Int
    latest: Int
    cycles: Int
    """For how long it spends, evenly."""
    energy_aj: Int
    """Attojoules."""
    instruction: Int
    """Which of the resolved instructions spends it."""


def work(program: Program, *, images: int, window_cycles: int, deadline: int) -> Work | None:
    """Reads, digital functions, copies and sends of ``images`` images that are done before cycle ``deadline``.

    ``None`` where the records would take too much memory. The deadline is no earlier than the end of a run in which
    units serve everybody at once.
    """
    warm_up()
    options = Options(images, window_cycles, resident_weights=True, contention=False, issues=1)
    prepared = prepare(program, options)
    run_prepared(prepared)
    count = int(prepared.world.memory[y.O_ISSUES])
    if count > MOST_ISSUES:
        return None
    prepared = prepare(program, options._replace(issues=count))
    run_prepared(prepared)
    return _work(prepared, deadline)


def _work(prepared: Prepared, deadline: int) -> Work:
    """The work of a run whose issues were all kept."""
    world, memory = prepared.world, prepared.world.memory
    issues, buffers = world.table("issues"), world.table("buffers")
    row = np.maximum(issues[:, y.I_ROW], 0)
    op = np.where(issues[:, y.I_ROW] < 0, _TARGET, memory[row + y.OP])
    computes, sends = np.isin(op, (y.READ, y.ALU, y.COPY, y.WRITE_LOCAL)), op == y.SEND
    cost = np.where(computes, issues[:, y.I_C], 0)
    cycles = np.where(computes, memory[cost], np.where(sends, issues[:, y.I_A], 1))
    done = np.where(computes, memory[cost + 1], cycles)
    energy = np.where(computes, memory[cost + 3], np.where(sends, issues[:, y.I_C], 0))
    slots = (np.where(computes, issues[:, y.I_A], 0), np.where(computes | sends, issues[:, y.I_B], 0))
    written, read = ((s - world.base("slots")) // y.SLOT_WIDTH for s in slots)
    sets = (np.where(op == y.READ, memory[row + y.SET], 0) - world.base("sets")) // y.UNIT_WIDTH
    before = _before(issues[:, y.I_CONTEXT], world.sizes["contexts"])
    writer = _writers(issues[:, y.I_CONTEXT], written, read, world.sizes["slots"])
    same_set = _before(sets, world.sizes["sets"])
    ringed = (op == _TARGET) | (op == y.RECV) | (op == y.FREE)
    ring = np.where(ringed, issues[:, y.I_A] - world.base("buffers"), 0) // y.BUFFER_WIDTH
    places = np.zeros(len(buffers), np.int64)
    np.maximum.at(places, ring, np.where(op == _TARGET, issues[:, y.I_B] + 1, 0))
    latest = deadline - np.maximum(cycles, done)
    earlier = (before, writer, same_set)
    apart = (np.ones_like(done), done, cycles)
    _pull(latest, issues, op, earlier, apart, ring, buffers[:, y.SLOTS].copy(), places)
    spends = energy > 0
    instruction = (row[spends] - world.base("rows")) // y.ROW_WIDTH
    return Work(issues[spends, y.I_START], latest[spends], cycles[spends], energy[spends], instruction)


@njit(cache=True)
def _before(groups: Int, count: int) -> Int:
    """The record before each that is of the same group, -1 where there is none or a group is below 0."""
    last = np.full(count, -1)
    found = np.full(len(groups), -1)
    for i in range(len(groups)):
        if groups[i] >= 0:
            found[i] = last[groups[i]]
            last[groups[i]] = i
    return found


@njit(cache=True)
def _writers(contexts: Int, written: Int, read: Int, count: int) -> Int:
    """The record of the same context that last wrote what each reads, -1 where there is none."""
    last = np.full(count, -1)
    found = np.full(len(read), -1)
    for i in range(len(read)):
        if read[i] >= 0 and last[read[i]] >= 0 and contexts[last[read[i]]] == contexts[i]:
            found[i] = last[read[i]]
        if written[i] >= 0:
            last[written[i]] = i
    return found


@njit(cache=True)
def _pull(
    latest: Int,
    issues: Int,
    op: Int,
    earlier: tuple[Int, Int, Int],
    apart: tuple[Int, Int, Int],
    ring: Int,
    slots: Int,
    places: Int,
) -> None:
    """Lower ``latest`` to what follows from later records, from the last to the first.

    A record issues at least ``apart`` of its three ``earlier`` ones behind each of them.
    """
    offsets = np.cumsum(places) - places
    received = np.full(places.sum(), _NEVER)
    sent = np.full(places.sum(), _NEVER)
    for i in range(len(issues) - 1, -1, -1):
        own = latest[i]
        if op[i] == _TARGET:
            continue
        first, ends = issues[i, y.I_B] - issues[i, y.I_C], issues[i, y.I_B]
        if op[i] == y.RECV:
            for place in range(first, min(ends, places[ring[i]])):
                received[offsets[ring[i]] + place] = own
        elif op[i] == y.FREE:
            roomy = slots[ring[i]]
            for place in range(first + roomy, min(ends + roomy, places[ring[i]])):
                own = min(own, sent[offsets[ring[i]] + place] - 1)
        elif op[i] == y.SEND:
            j = i - 1
            while j >= 0 and op[j] == _TARGET:
                way = issues[j, y.I_C] - issues[i, y.I_START]
                own = min(own, received[offsets[ring[j]] + issues[j, y.I_B]] - way)
                j -= 1
            for target in range(j + 1, i):
                place = offsets[ring[target]] + issues[target, y.I_B]
                sent[place] = min(sent[place], own)
        latest[i] = own
        for k in range(3):
            j = earlier[k][i]
            if j >= 0:
                latest[j] = min(latest[j], own - apart[k][j])
