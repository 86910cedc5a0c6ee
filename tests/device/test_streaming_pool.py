"""The pool under a machine that delays work as long as events allow; stores; lanes of a CPU."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor

from cimc.runtime.device.streaming.lanes import HostMachine
from cimc.runtime.device.streaming.pool import BufferPool
from cimc.runtime.device.streaming.stores import FileStore, HostStore, Store


class Mark:
    """An event: done once its lane came past it."""

    def __init__(self) -> None:
        self.done = False

    def query(self) -> bool:
        return self.done


class SlowLane:
    """Work that waits until somebody runs it, in order."""

    def __init__(self, *, heeds_events: bool = True) -> None:
        self.work: list[Callable[[], bool]] = []
        self.heeds_events = heeds_events

    def put(self, action: Callable[[], None]) -> None:
        def act() -> bool:
            action()
            return True

        self.work.append(act)

    def record(self) -> Mark:
        mark = Mark()
        self.put(lambda: setattr(mark, "done", True))
        return mark

    def wait(self, event: object) -> None:
        assert isinstance(event, Mark)
        if self.heeds_events:
            self.work.append(lambda: event.done)

    def step(self) -> bool:
        """Run the first piece of work, if it may run."""
        if not self.work or not self.work[0]():
            return False
        del self.work[0]
        return True


class SlowMachine:
    """Two lanes that run in an order of ``rng``'s choosing: whatever a GPU might do, it may do."""

    def __init__(self, seed: int, *, compute_heeds: bool = True, copies_heed: bool = True) -> None:
        self.compute = SlowLane(heeds_events=compute_heeds)
        self.copies = SlowLane(heeds_events=copies_heed)
        self.rng = random.Random(seed)

    def empty(self, size_bytes: int) -> Tensor:
        return torch.zeros(size_bytes, dtype=torch.uint8)

    def on_copies(self) -> AbstractContextManager[object]:
        return nullcontext()

    def run(self, limit: int | None = None) -> None:
        """Run up to ``limit`` pieces of work, or all of it."""
        lanes = [self.compute, self.copies]
        done = 0
        while (limit is None or done < limit) and any(lane.work for lane in lanes):
            self.rng.shuffle(lanes)
            if not any(lane.step() for lane in lanes):
                assert limit is not None, "lanes wait for one another for ever"
                return
            done += 1


class SlowStore:
    """A store whose copies are work of the copy lane: half of the bytes first, the rest later."""

    def __init__(self, machine: SlowMachine, inner: Store) -> None:
        self.machine = machine
        self.inner = inner

    def put(self, key: int, codes: Tensor) -> None:
        self.inner.put(key, codes)

    def size_bytes(self, key: int) -> int:
        return self.inner.size_bytes(key)

    def fetch(self, key: int, into: Tensor) -> None:
        codes = torch.empty_like(into)
        self.inner.fetch(key, codes)
        half = len(into) // 2

        def move(part: slice) -> Callable[[], None]:
            def copy() -> None:
                into[part] = codes[part]

            return copy

        self.machine.copies.put(move(slice(half)))
        self.machine.copies.put(move(slice(half, None)))

    def fetch_rows(self, key: int, rows: Sequence[int], row_bytes: int) -> Tensor:
        return self.inner.fetch_rows(key, rows, row_bytes)


def codes_of(key: int, size: int = 16) -> Tensor:
    """Recognisable codes."""
    return (torch.arange(size) * (key + 1) + key).to(torch.uint8)


def wrong_reads(machine: SlowMachine, slots: int, uses: Sequence[int], order: Sequence[int]) -> int:
    """How many uses saw something else than their block's codes, each use reading twice, late."""
    store = SlowStore(machine, HostStore(pinned=False))
    for key in set(order):
        store.put(key, codes_of(key))
    pool = BufferPool(machine, store, order, slots, 16)
    wrong: list[int] = []
    for key in uses:
        view = pool.acquire(key)

        def look(view: Tensor = view, key: int = key) -> None:
            if not torch.equal(view, codes_of(key)):
                wrong.append(key)

        machine.compute.put(look)
        machine.compute.put(look)
        pool.release()
        machine.run(machine.rng.randrange(6))
    machine.run()
    return len(wrong)


ORDER = (0, 1, 2, 3, 1, 4)


# Whatever order two asynchronous lanes take, every use sees its own codes, for every number of slots, with passes
# that wrap around and blocks used twice.
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("slots", [1, 2, 3])
def test_uses_see_their_codes(seed: int, slots: int) -> None:
    assert wrong_reads(SlowMachine(seed), slots, ORDER * 3, ORDER) == 0


# Uses out of order are served too.
@pytest.mark.parametrize("seed", range(10))
def test_uses_out_of_order(seed: int) -> None:
    uses = random.Random(seed).choices(range(5), k=20)
    assert wrong_reads(SlowMachine(seed), 2, uses, ORDER) == 0


# Without either wait some order of the lanes shows wrong codes: the two events are what keeps slots safe, and the
# machine of these tests would tell.
@pytest.mark.parametrize("lane", ["compute", "copies"])
def test_each_wait_is_needed(lane: str) -> None:
    seen = sum(
        wrong_reads(
            SlowMachine(seed, compute_heeds=lane != "compute", copies_heed=lane != "copies"),
            2,
            ORDER * 3,
            ORDER,
        )
        for seed in range(20)
    )
    assert seen > 0


# Transfers run ahead by the number of slots and wrap around: after the first use nothing is fetched on demand.
def test_prefetch_runs_ahead() -> None:
    store = HostStore(pinned=False)
    for key in range(5):
        store.put(key, codes_of(key))
    pool = BufferPool(HostMachine(), store, ORDER, 3, 16)
    pool.acquire(0)
    assert pool.fetched_bytes == 3 * 16
    pool.release()
    assert pool.fetched_bytes == 4 * 16
    for key in (*ORDER[1:], *ORDER):
        assert torch.equal(pool.acquire(key), codes_of(key))
        pool.release()
    assert pool.missed == 0
    pool.acquire(4)
    assert pool.missed == 1


# The memory of a pool is its slots, allocated once: views handed out lie in the same few places.
def test_buffers_are_fixed() -> None:
    store = HostStore(pinned=False)
    for key in range(5):
        store.put(key, codes_of(key))
    pool = BufferPool(HostMachine(), store, ORDER, 2, 16)
    places: set[int] = set()
    for key in ORDER * 4:
        places.add(pool.acquire(key).data_ptr())
        pool.release()
    assert len(places) == 2
    assert pool.size_bytes == 32


# What the pool cannot do it refuses.
def test_bad_pools() -> None:
    store = HostStore(pinned=False)
    store.put(0, codes_of(0))
    with pytest.raises(ValueError, match="at least one slot"):
        BufferPool(HostMachine(), store, [0], 0, 16)
    with pytest.raises(ValueError, match="a slot has 8"):
        BufferPool(HostMachine(), store, [0], 1, 8)
    pool = BufferPool(HostMachine(), store, [0], 1, 16)
    with pytest.raises(RuntimeError, match="no block is in use"):
        pool.release()
    pool.acquire(0)
    with pytest.raises(RuntimeError, match="in use already"):
        pool.acquire(0)
    pool.release()
    with pytest.raises(KeyError, match="does not stream"):
        pool.acquire(7)


# Both stores give back what was put, whole and by rows.
@pytest.mark.parametrize("make", [lambda: HostStore(pinned=False), FileStore])
def test_stores(make: Callable[[], Store]) -> None:
    store = make()
    tables = {key: torch.randint(-128, 128, (7, 5 + key), dtype=torch.int8) for key in range(3)}
    for key, table in tables.items():
        store.put(key, table)
    for key, table in tables.items():
        into = torch.empty(store.size_bytes(key), dtype=torch.uint8)
        store.fetch(key, into)
        assert torch.equal(into.view(torch.int8).view(table.shape), table)
        rows = store.fetch_rows(key, [6, 0, 6], table.shape[1])
        assert torch.equal(rows.view(torch.int8), table[[6, 0, 6]])
    for replaced in (tables[1] + 1, torch.ones(3, 3, dtype=torch.int8), torch.zeros(99, dtype=torch.int8)):
        store.put(1, replaced)
        into = torch.empty(store.size_bytes(1), dtype=torch.uint8)
        store.fetch(1, into)
        assert torch.equal(into.view(torch.int8).view(replaced.shape), replaced)
    into = torch.empty(store.size_bytes(2), dtype=torch.uint8)
    store.fetch(2, into)
    assert torch.equal(into.view(torch.int8).view(tables[2].shape), tables[2])
