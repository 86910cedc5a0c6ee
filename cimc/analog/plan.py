"""From a traced pass and measured blocks to the problem that placement solves (docs/streaming.md, prediction)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Literal

import torch
from torch import Tensor

from cimc.analog.matrices import Block
from cimc.analog.probe import BlockMeasure, link_bytes_per_s, measure
from cimc.analog.trace import Trace
from cimc.runtime.device.streaming.problem import BlockCost, Problem
from cimc.runtime.device.streaming.stores import Store

Resident = Literal["cells", "codes"]
"""What stays of a resident block: its cells, ready to read, or its codes, from which each use makes them."""


PROCESS_BYTES = 2 << 20
"""Allowance for what a run takes beside tensors: pages begun, libraries' buffers. Measured: up to 1.9 MB."""
BLOCK_OBJECTS_BYTES = 16 << 10
"""Allowance for Python's objects of one block and its recipe."""


@dataclass(frozen=True)
class Plan:
    """The problem, and which block each of its numbers is."""

    problem: Problem
    keys: tuple[int, ...]
    complete: bool
    """Whether the live values of the network are in it; without a trace they are not."""


@dataclass(frozen=True)
class Machine:
    """What a plan asks of the run: codes, and how reads are bounded."""

    device: torch.device
    store: Store
    stored: Callable[[Block], Tensor]
    tile_windows: Callable[[Block], int]
    read_bytes: int
    resident: Resident


def make_plan(blocks: Mapping[int, Block], machine: Machine, trace: Trace, base_bytes: int) -> Plan:
    """The costs of every block, measured on one block of each shape, around the live values of ``trace``.

    Without uses in the trace every block is used once, in the order of the network, and live values count as 0.
    """
    keys = tuple(blocks)
    number = {key: i for i, key in enumerate(keys)}
    live, windows = dict.fromkeys(keys, 0), dict.fromkeys(keys, 0)
    for use in trace.uses:
        for key in use.keys:
            live[key] = max(live[key], use.live_bytes)
            windows[key] = max(windows[key], use.windows)
    order = tuple(number[key] for use in trace.uses for key in use.keys) or tuple(range(len(keys)))
    measured: dict[object, BlockMeasure] = {}
    costs: list[BlockCost] = []
    spare = 0
    for key, block in blocks.items():
        limit = machine.tile_windows(block)
        tile = max(1, min(limit, windows[key] or limit))
        shape = (block.shape(), block.recipe.coding, tile)
        if shape not in measured:
            codes = machine.stored(block).to(machine.device)
            measured[shape] = measure(block.recipe, codes, tile, machine.read_bytes)
        one = measured[shape]
        spare = max(spare, one.prepare_peak_bytes - one.prepared_bytes + machine.store.size_bytes(key))
        costs.append(_cost(block, one, live[key], ceil(max(1, windows[key]) / tile), machine))
    speed = link_bytes_per_s(machine.store, list(keys), _buffer(machine, keys))
    # Cells of resident blocks are made before the first pass, with nothing else alive.
    other = max(trace.peak_bytes, spare) if machine.resident == "cells" else trace.peak_bytes
    base_bytes += PROCESS_BYTES + len(keys) * BLOCK_OBJECTS_BYTES
    return Plan(Problem(tuple(costs), order, base_bytes, other, speed), keys, bool(trace.uses))


def _buffer(machine: Machine, keys: tuple[int, ...]) -> Tensor:
    size = max(machine.store.size_bytes(key) for key in keys)
    return torch.empty(size, dtype=torch.uint8, device=machine.device)


def _cost(block: Block, one: BlockMeasure, live: int, tiles: int, machine: Machine) -> BlockCost:
    code_bytes = machine.store.size_bytes(block.key)
    reading = tiles * one.tile_ns
    made = live + max(one.prepare_peak_bytes, one.prepared_bytes + one.tile_peak_bytes)
    kept = machine.resident == "cells"
    return BlockCost(
        name=block.name,
        code_bytes=code_bytes,
        resident_bytes=one.prepared_bytes if kept else code_bytes,
        resident_work_bytes=live + one.tile_peak_bytes if kept else made,
        streamed_work_bytes=made,
        resident_ns=reading if kept else reading + one.prepare_ns,
        streamed_ns=reading + one.prepare_ns,
        hold_ns=one.prepare_ns + (reading if block.recipe.resamples else 0.0),
    )
