"""The state of a converted module: where its codes are, what is resident, and what memory was promised."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cimc.analog.matrices import Block
from cimc.analog.plan import Machine, Plan, Resident, make_plan
from cimc.analog.report import MemoryReport, WhatIf, memory_report, what_if_table
from cimc.analog.trace import Trace, Tracer, input_bytes, run_on_meta, traceable
from cimc.diagnostics import UsageError
from cimc.runtime.device.prepared import Prepared, prepare
from cimc.runtime.device.recipe import Chip
from cimc.runtime.device.streaming.lanes import machine_of
from cimc.runtime.device.streaming.memory import (
    Ledger,
    LiveBytes,
    available_bytes,
    release_free_memory,
)
from cimc.runtime.device.streaming.placement import Placement, Policy, place
from cimc.runtime.device.streaming.pool import BufferPool
from cimc.runtime.device.streaming.stores import Store, store_for


class ArrayLayer(Protocol):
    """What a run knows of a layer."""

    blocks: tuple[Block, ...]
    windows_done: int
    """Windows read so far."""
    calls: int


@dataclass(frozen=True)
class MemoryOptions:
    """What was asked of memory."""

    streaming: Policy
    budget_bytes: int | None
    chunk_bytes: int
    depth: int | None
    resident: Resident


class AnalogRun:
    """Blocks of a converted module and the memory they run in.

    :attr:`module` is the converted module; ``memory_report`` and ``what_if`` are attached to it too.
    """

    def __init__(self, device: torch.device, options: MemoryOptions):
        self.options = options
        self.device = device
        self.store: Store = store_for(device)
        self.layers: list[ArrayLayer] = []
        self.digital: dict[str, str] = {}
        """Layers that were left as they are, and why."""
        self.converters: list[str] = []
        self.plan: Plan | None = None
        self.placement: Placement | None = None
        self.ledger = Ledger(None)
        self.pool: BufferPool | None = None
        self._module: tuple[nn.Module, ...] = ()
        self._kept: dict[int, Prepared] = {}
        self._codes: dict[int, Tensor] = {}
        self._live: set[int] = set()
        self.training_here = False
        """Whether layers keep float weights and may change; memory is not planned then."""
        self._tracer: Tracer | None = None
        self._stale = False
        """Whether codes changed since memory was set up: slots may hold what was there before."""
        self._planned_bytes = -1

    # -- what layers call ---------------------------------------------------------------------------------

    @property
    def read_bytes(self) -> int:
        """Bound handed to each read: half of the chunk, the rest being windows and results."""
        return self.options.chunk_bytes // 2

    def tile_windows(self, block: Block) -> int:
        """Windows read at once: their codes and results fill at most half of the chunk."""
        recipe = block.recipe
        per_window = recipe.rows * (1 if recipe.coding.input_bits <= 8 else 4) + 28 * block.width
        return max(1, self.options.chunk_bytes // 2 // per_window)

    def note_use(self, blocks: Sequence[Block], windows: int) -> None:
        """A layer is about to read on ``meta``."""
        if self._tracer is not None:
            self._tracer.note(tuple(block.key for block in blocks), windows)

    def keep_stored(self, key: int, codes: Tensor) -> None:
        """Put the codes (N, K) of a block in the store; what was made of older ones is forgotten."""
        self.store.put(key, codes.cpu())
        self._forget(key)
        self._stale = True

    def keep_live(self, key: int, codes: Tensor) -> None:
        """Keep the codes (N, K) of a layer in training where they are."""
        self._forget(key)
        self._live.add(key)
        self._codes[key] = codes

    def stored(self, block: Block) -> Tensor:
        """Codes (N, K) of a block on the CPU."""
        if block.key in self._live:
            return self._codes[block.key].cpu()
        into = torch.empty(self.store.size_bytes(block.key), dtype=torch.uint8)
        self.store.fetch(block.key, into)
        return _as_codes(into, block)

    def stored_rows(self, blocks: Sequence[Block], numbers: Tensor) -> Tensor:
        """Codes (len(numbers), K) of some output channels of a dense layer, on the CPU."""
        span = blocks[0].width
        itemsize = _as_codes(torch.empty(0, dtype=torch.uint8), blocks[0], empty=True).element_size()
        row_bytes = blocks[0].recipe.rows * itemsize
        wanted = numbers.cpu()
        found = torch.empty((len(wanted), row_bytes), dtype=torch.uint8)
        for index, block in enumerate(blocks):
            here = torch.nonzero(wanted // span == index).flatten()
            if len(here):
                rows = (wanted[here] - index * span).tolist()
                found[here] = self.store.fetch_rows(block.key, rows, row_bytes)
        return found.view(torch.int8 if itemsize == 1 else torch.int16)

    @contextmanager
    def cells(self, block: Block, device: torch.device) -> Generator[Prepared]:
        """The block's cells for reads on ``device`` inside the context."""
        if device != self.device:
            self._move(device)
        if self._stale:
            self._program()
        kept = self._kept.get(block.key)
        if kept is not None:
            yield kept
            return
        codes = self._codes.get(block.key)
        pool = self.pool if codes is None and self.pool is not None and self.pool.streams(block.key) else None
        if pool is not None:
            codes = _as_codes(pool.acquire(block.key), block)
        if codes is None:
            # Nothing was planned: the first pass, or a layer called past the module.
            codes = self.stored(block).to(device)
            if self.options.streaming is False and self.options.resident == "cells":
                self._kept[block.key] = prepare(block.recipe, codes.T)
                yield self._kept[block.key]
                return
            if self.options.streaming is False:
                self._codes[block.key] = codes
        held = pool is not None
        try:
            prepared = prepare(block.recipe, codes.T)
            if pool is not None:
                self._release()
            if held and prepared.codes is None:
                # The cells are made: the slot may be refilled while they are read.
                assert pool is not None
                pool.release()
                held = False
            if block.key in self._live:
                self._kept[block.key] = prepared
            with self.ledger.taken(prepared.size_bytes, block.name):
                yield prepared
        finally:
            if held:
                assert pool is not None
                pool.release()

    # -- chips --------------------------------------------------------------------------------------------

    def use_chip(self, chip: Chip) -> None:
        """Read from another chip, or from the same one at another time; windows are counted from 0 again."""
        for layer in self.layers:
            layer.blocks = tuple(replace(b, recipe=replace(b.recipe, chip=chip)) for b in layer.blocks)
        self.rewind()
        self._kept.clear()
        self._program()

    def rewind(self) -> None:
        """Count windows and calls from 0: the next pass draws the read noise of the first again."""
        for layer in self.layers:
            layer.windows_done, layer.calls = 0, 0

    # -- memory -------------------------------------------------------------------------------------------

    @property
    def module(self) -> nn.Module:
        """The converted module."""
        return self._module[0]

    @property
    def blocks(self) -> dict[int, Block]:
        """All blocks by key, in the order of the network."""
        return {block.key: block for layer in self.layers for block in layer.blocks}

    def attach(self, module: nn.Module) -> None:
        """Belong to ``module``: plan before its first pass, and again before a larger one."""
        self._module = (module,)
        module.register_forward_pre_hook(self._before, with_kwargs=True)

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        unlimited = self.options.streaming is False and self.options.budget_bytes is None
        if self._tracer is not None or self.training_here or unlimited:
            return
        size = input_bytes(args, kwargs)
        if size <= self._planned_bytes:
            return
        if not traceable(args, kwargs) and self._planned_bytes >= 0:
            return
        self.prepare_for(args, kwargs)

    def prepare_for(self, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> Placement:
        """Plan memory for calls of this size and set it up: choose what is resident, program it, allocate the pool.

        Raises :class:`DoesNotFitError` before any work when the budget is too small, :class:`UsageError` when the
        module cannot be traced.
        """
        self._release()
        self.plan = self._make_plan(args, kwargs or {})
        budget = self.options.budget_bytes
        if budget is None and self.options.streaming not in (True, False):
            budget = available_bytes(self.device)
        self.placement = place(self.plan.problem, self.options.streaming, budget, self.options.depth)
        self._planned_bytes = input_bytes(args, kwargs or {})
        self._release()
        self._program()
        return self.placement

    def use_budget(self, budget_bytes: int | None) -> Placement:
        """Place anew under another budget; the plan stays. Bits do not change.

        Raises :class:`UsageError` before anything was planned, :class:`DoesNotFitError` when the budget is too small.
        """
        if self.plan is None:
            raise UsageError(
                "nothing was planned yet; run the module once, or call prepare_for with an example",
                where="streaming",
            )
        self.placement = place(self.plan.problem, self.options.streaming, budget_bytes, self.options.depth)
        self.options = replace(self.options, budget_bytes=budget_bytes)
        self._program()
        return self.placement

    def _make_plan(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Plan:
        self._tracer = Tracer(LiveBytes(), Trace())
        try:
            if traceable(args, kwargs):
                run_on_meta(self.module, args, kwargs, self._tracer)
            tensors = {id(t): t for t in (*self.module.parameters(), *self.module.buffers())}
            base = sum(t.numel() * t.element_size() for t in tensors.values())
            machine = Machine(
                self.device,
                self.store,
                self.stored,
                self.tile_windows,
                self.read_bytes,
                self.options.resident,
            )
            return make_plan(self.blocks, machine, self._tracer.trace, base)
        finally:
            self._tracer = None

    def _program(self) -> None:
        """Make resident what the placement keeps, and the pool for the rest."""
        self._stale = False
        if self.plan is None or self.placement is None:
            return
        self.pool = None
        self._kept.clear()
        self._codes.clear()
        self.ledger = Ledger(self.placement.peak_bytes)
        self.ledger.take(self.plan.problem.base_bytes, "digital parameters")
        streamed = {self.plan.keys[i] for i in self.placement.streamed}
        for key, block in self.blocks.items():
            if key not in streamed:
                self._keep(block)
        order = [self.plan.keys[i] for i in self.plan.problem.order if self.plan.keys[i] in streamed]
        if order:
            largest = max(self.store.size_bytes(key) for key in order)
            self.pool = BufferPool(machine_of(self.device), self.store, order, self.placement.slots, largest)
            self.ledger.take(self.pool.size_bytes, "buffer pool")

    def _keep(self, block: Block) -> None:
        """Make a block resident."""
        codes = self.stored(block).to(self.device)
        if self.options.resident == "codes":
            self._codes[block.key] = codes
            self.ledger.take(codes.numel() * codes.element_size(), block.name)
        else:
            self._kept[block.key] = prepare(block.recipe, codes.T)
            self.ledger.take(self._kept[block.key].size_bytes, block.name)
            self._release()

    def _release(self) -> None:
        """Let resident size follow what is held: making cells leaves holes, which the prediction does not know."""
        if self.device.type == "cpu":
            release_free_memory()

    def _move(self, device: torch.device) -> None:
        """Compute on another device from now on."""
        if self.training_here:
            raise UsageError("a module in training is moved before its first pass", where="streaming")
        store = store_for(device)
        for key, block in self.blocks.items():
            store.put(key, self.stored(block))
        self.device, self.store = device, store
        self._kept.clear()
        self._codes.clear()
        self.pool, self.plan, self.placement = None, None, None
        self._planned_bytes = -1

    def _forget(self, key: int) -> None:
        self._kept.pop(key, None)
        self._codes.pop(key, None)

    def memory_report(self) -> MemoryReport:
        """What was promised and what was used. Raises :class:`UsageError` before anything was planned."""
        if self.plan is None or self.placement is None:
            raise UsageError(
                "nothing was planned yet; run the module once, or call prepare_for with an example",
                where="streaming",
            )
        return memory_report(
            self.plan,
            self.placement,
            self.options.streaming,
            self.options.budget_bytes,
            self.ledger.peak_bytes,
            self.digital,
            self.converters,
        )

    def what_if(self, budgets_gb: Sequence[float]) -> WhatIf:
        """For each budget in GB (10^9 bytes): policy, streamed bytes, predicted peak and time.

        Raises :class:`UsageError` before anything was planned.
        """
        if self.plan is None:
            raise UsageError(
                "nothing was planned yet; run the module once, or call prepare_for with an example",
                where="streaming",
            )
        return what_if_table(self.plan, budgets_gb, self.options.depth)


def _as_codes(flat: Tensor, block: Block, *, empty: bool = False) -> Tensor:
    """uint8 bytes as the codes (N, K) of a block."""
    kind = torch.int8 if block.recipe.coding.weight_bits <= 8 else torch.int16
    codes = flat.view(kind)
    return codes if empty else codes.view(block.shape())
