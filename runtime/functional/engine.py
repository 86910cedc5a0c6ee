"""The functional engine: executes a program's rows on real input, context by context until each blocks.

Contexts and rings form a bounded Kahn network, so the order of execution cannot change a result; this
one runs a context until it has to wait and then the next that can go on. ``docs/functional-engine.md``.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.diagnostics import UnsupportedError, UsageError
from cimc.runtime.functional.arrays import Arrays
from cimc.runtime.functional.converters import ConverterCount
from cimc.runtime.functional.decode import HALTED, Code, Machinery, decode, place
from cimc.runtime.functional.fields import Frame, ProgramRows
from cimc.runtime.functional.hosts import HostSessions, Loader
from cimc.runtime.functional.memory import Memory, Ring
from cimc.runtime.functional.moves import Switchboard, events_of, taps_by_index
from cimc.runtime.functional.problems import DeadlockError, ExecutionError
from cimc.runtime.functional.reads import ReadBinder
from cimc.runtime.functional.rounds import NAMED, Rounds
from cimc.runtime.functional.tensors import HostTensor, empty_tensor, host_tensors
from cimc.runtime.program.tables import LEVELS, IoTensor, Program


@dataclass(frozen=True)
class NodeCount:
    """What one node executed."""

    instructions: int
    macs: int


@dataclass(frozen=True)
class FunctionalResult:
    """Values and counts of a run over all frames."""

    outputs: Mapping[str, npt.NDArray[Any]]
    """Codes or floats as the program delivers them, shape (frames, *ONNX shape without batch)."""
    taps: Mapping[str, npt.NDArray[Any]]
    """The tapped tensors, shaped as outputs."""
    frames: int
    array_macs: int
    """Multiply-accumulates done by ``read_*``, counted from executed reads: rows used x columns used."""
    executed_instructions: int
    """Rows issued in the expanded loops without ``loop``, ``end``, ``halt``, ``wait``; a read counts per window."""
    nodes: Mapping[str, NodeCount]
    """The same by node name."""
    converters: Mapping[str, ConverterCount]
    """Conversions and clipped ones by node name; empty unless ``count_converters``."""
    most_held: Mapping[int, int]
    """High-water mark of each ring, in places, by buffer number."""


class Stream:
    """A control stream: its contexts in order of phases, loop counters, the step it stands at."""

    def __init__(self, contexts: list[int]):
        self.contexts = contexts
        self.phase = -1
        self.counters = [0] * LEVELS
        self.code: Code | None = None
        self.hits: list[int] = []
        self.at = 0
        self.reason = ""

    @property
    def context(self) -> int:
        """The context that is executing."""
        return self.contexts[self.phase]


class Walk:
    """One execution: memory, crossbars, streams, and what they count."""

    def __init__(
        self,
        program: Program,
        tensors: list[HostTensor],
        frames: int,
        taps: dict[str, HostTensor],
        loader: Loader | None,
        *,
        count_converters: bool,
        arrays: Arrays,
    ):
        self.program = program
        self.rows = ProgramRows(program)
        self.buffers = Memory(program).buffers
        self.ready: deque[Stream] = deque()
        self.streams = _streams(program)
        self._counts: dict[int, list[int]] = {}
        board = Switchboard(program, self.buffers, self._wake, events_of(program))
        self.reads = ReadBinder(arrays, count_converters)
        self._shared = Machinery(
            board,
            self.reads,
            HostSessions(loader),
            tensors,
            taps_by_index(program, taps),
            frames,
            walk=True,
        )
        contexts = program["contexts"]
        self._body: list[int] = contexts["body"].tolist()
        self._params: list[tuple[int, int]] = list(
            zip(contexts["param_first"].tolist(), contexts["param_count"].tolist(), strict=True)
        )
        self._node: list[int] = contexts["node"].tolist()

    def execute(self) -> None:
        """Until all streams have halted. ExecutionError with its place; DeadlockError if some cannot go on."""
        for stream in self.streams:
            self._next_phase(stream)
            self.ready.append(stream)
        while self.ready:
            self._advance(self.ready.popleft())
        blocked = [stream for stream in self.streams if stream.code]
        if blocked:
            raise DeadlockError(self._deadlock(blocked))

    def counts(self) -> dict[int, list[int]]:
        """Executed instructions and multiply-accumulates by node."""
        return self._counts

    def _wake(self, waiter: Any) -> None:
        self.ready.append(waiter)

    def _advance(self, stream: Stream) -> None:
        """Execute a stream until it blocks or all its phases have halted."""
        while stream.code:
            steps, hits, at = stream.code.steps, stream.hits, stream.at
            try:
                while True:
                    following = steps[at]()
                    if following < 0:
                        break
                    hits[at] += 1
                    at = following
            except ExecutionError as error:
                raise error.at(self._place(stream, at)) from error
            except UnsupportedError as error:  # of the arithmetic: a NaN that should become a code
                raise UnsupportedError(error.message, where=self._place(stream, at)) from error
            stream.at = at
            if following != HALTED:
                return
            self._count(stream)
            self._next_phase(stream)

    def _next_phase(self, stream: Stream) -> None:
        """Decode the context of the next phase; ``code`` is None when there is none."""
        stream.phase += 1
        if stream.phase == len(stream.contexts):
            stream.code = None
            return
        context = stream.context
        frame = Frame(self.program, self.rows, self.buffers, stream.counters)
        try:
            first, count = self._params[context]
            rows = [self.rows.resolve(row, first, count) for row in self.rows.body(self._body[context])]
            stream.code = decode(rows, frame, self._shared, stream)
        except ExecutionError as error:
            raise error.at(
                self._context_name(context) + (f", {error.where}" if error.where else "")
            ) from error
        stream.hits = [0] * len(rows)
        stream.at = 0

    def _count(self, stream: Stream) -> None:
        assert stream.code is not None
        for hits, tallies in zip(stream.hits, stream.code.tallies, strict=True):
            for tally in tallies:
                total = self._counts.setdefault(tally.node, [0, 0])
                total[0] += hits * tally.instructions
                total[1] += hits * tally.macs

    def _context_name(self, context: int) -> str:
        core = int(self.program["contexts"]["core"][context])
        return f"context {context} of '{self.program.name_of(self._node[context])}' on core {core}"

    def _place(self, stream: Stream, at: int) -> str:
        assert stream.code is not None
        row = stream.code.rows[at]
        name = self.program.name_of(row.node)
        return f"{self._context_name(stream.context)}, {place(name, at, row)}"

    def _deadlock(self, blocked: list[Stream]) -> str:
        lines = [f"{self._place(s, s.at)} waits for {s.reason}" for s in blocked[:NAMED]]
        more = len(blocked) - len(lines)
        return (
            f"{len(blocked)} of {len(self.streams)} contexts are left and none can go on; deepen the ring that "
            "has no room, or send the rows that are missing:\n  "
            + "\n  ".join(lines)
            + (f"\n  and {more} more" if more else "")
        )


def run_program(
    program: Program,
    weights: Mapping[str, npt.NDArray[Any]],
    inputs: Mapping[str, npt.NDArray[Any]],
    *,
    taps: Collection[str] = (),
    walk: bool = False,
    hosts: Loader | None = None,
    count_converters: bool = False,
    arrays: Arrays | None = None,
) -> FunctionalResult:
    """Execute ``program`` on ``inputs``.

    ``weights``: the weight image, integer matrices (K, N) by name. ``inputs``: arrays (frames, *shape), as
    many frames as you like; a program of several phases, which spills them, takes up to ``program.frames`` in a call
    (give the next call its ``arrays``). ``taps``: names of :attr:`Program.taps` to keep. ``walk``: one window, digit
    and conversion at a time by the definition of docs/crossbar.md instead of the fast path; same result.
    ``hosts``: gives the bytes of a host operator's model by name. ``count_converters``: also count how many
    conversions are clipped, which forms every partial sum that the fast path avoids. ``arrays``: the crossbars as an
    earlier call of the same program left them; absent, they are empty.

    Raises UsageError for inputs, taps or weights that do not belong to the program, ExecutionError with
    node, context and instruction when a row breaks a rule of docs/isa.md, DeadlockError when contexts are
    left that cannot go on.
    """
    missing = [name for name in program.weights if name not in weights]
    if missing:
        raise UsageError(f"the weight image lacks {', '.join(missing)}", where="weights")
    tensors, frames = host_tensors(program, inputs)
    if program.phased and frames > program.frames:
        raise UsageError(
            f"{frames} frames, a call of this program of several phases takes {program.frames}; give them in several "
            "calls, with the arrays of the first",
            where="inputs",
        )
    tapped = _tapped(program, taps, frames)
    given = (program, tensors, frames, tapped, hosts)
    cells = arrays if arrays is not None else Arrays(program, weights)
    with _collector_paused():
        run = (Walk if walk else Rounds)(*given, count_converters=count_converters, arrays=cells)
        run.execute()
    outputs = {tensor.io.name: tensor for tensor in tensors if tensor.io.direction == "out"}
    for tensor in (*outputs.values(), *tapped.values()):
        tensor.complete()
    nodes = {
        program.name_of(node): NodeCount(instructions, macs)
        for node, (instructions, macs) in sorted(run.counts().items())
    }
    return FunctionalResult(
        outputs={name: tensor.data for name, tensor in outputs.items()},
        taps={name: tensor.data for name, tensor in tapped.items()},
        frames=frames,
        array_macs=sum(count.macs for count in nodes.values()),
        executed_instructions=sum(count.instructions for count in nodes.values()),
        nodes=nodes,
        converters=_converters(program, run.reads) if count_converters else {},
        most_held={b.number: b.most_held for b in run.buffers if isinstance(b, Ring)},
    )


@contextmanager
def _collector_paused() -> Generator[None]:
    """A run makes many objects that live as long as it: looking for garbage among them finds none."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def _tapped(program: Program, names: Collection[str], frames: int) -> dict[str, HostTensor]:
    known: dict[str, IoTensor] = {}
    for tap in program.taps:
        # A tensor may be sent as real values and, quantised, as codes: a tap shows its codes.
        if tap.name not in known or (known[tap.name].scale is None and tap.scale is not None):
            known[tap.name] = tap
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise UsageError(
            f"the program has no tap {', '.join(unknown)}; it has {', '.join(known) or 'none'}", where="taps"
        )
    return {name: HostTensor(known[name], empty_tensor(known[name], frames)) for name in names}


def _streams(program: Program) -> list[Stream]:
    """Contexts by stream, lowest phase first."""
    contexts = program["contexts"]
    order = np.lexsort((contexts["phase"], contexts["stream"])).tolist()
    streams: dict[int, list[int]] = {}
    for context in order:
        streams.setdefault(int(contexts["stream"][context]), []).append(context)
    return [Stream(members) for members in streams.values()]


def _converters(program: Program, reads: ReadBinder) -> dict[str, ConverterCount]:
    found: dict[str, ConverterCount] = {}
    for node, reader in reads.readers:
        name = program.name_of(node)
        found[name] = found.get(name, ConverterCount()) + reader.converters
    return found
