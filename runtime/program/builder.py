"""The assembler of programs: typed methods that append rows and give their numbers back.

Used by the compiler's emitter and by every test that wants a program by hand. Small tables whose
rows are shared (strides, windows, copies, codings, records, steps, names) are kept without repeats.
Nothing is checked here beyond types and sizes: the verifier judges a built program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cimc.runtime.program.geometry import RingGeometry
from cimc.runtime.program.opcodes import BufferKind, Element
from cimc.runtime.program.rows import Row
from cimc.runtime.program.tables import LEVELS, NONE, SCHEMAS, Columns, HostOperator, IoTensor, Program


class Route(NamedTuple):
    """One entry of a route set: source rectangle of the row, destination rectangle in the ring's slot."""

    ring: int
    group: int
    src_pos: int
    src_chan: int
    positions: int
    channels: int
    dst_pos: int
    dst_chan: int


class Tile(NamedTuple):
    """One crossbar of an array set: its number in the core and its block relative to the set."""

    xbar: int
    k0: int
    k1: int
    n0: int
    n1: int


def float_bits(value: float) -> int:
    """The bit pattern of a float32, as the ``pad`` of a ring and the value of ``fill`` hold it."""
    return int(np.float32(value).view(np.int32))


class ProgramBuilder:
    """Collects the rows of all tables; :meth:`build` freezes them into a :class:`Program`.

    Every ``add_*`` method returns the number of the row it added (or found).
    """

    def __init__(self) -> None:
        self._rows: dict[str, list[Sequence[int]]] = {name: [] for name in SCHEMAS}
        self._params: list[tuple[int, ...]] = []
        self._seen: dict[tuple[str, tuple[Any, ...]], int] = {}
        self._const_i: list[int] = []
        self._const_f: list[float] = []
        self._names: dict[str, int] = {}
        self._weights: dict[str, int] = {}
        self._io: list[IoTensor] = []
        self._taps: list[IoTensor] = []
        self._hosts: list[HostOperator] = []
        self._end_of_memory: dict[int, int] = {}
        self.add_stride((), ())  # row 0 is all zero

    # -- names -------------------------------------------------------------------------------

    def name(self, name: str) -> int:
        """The index of a node name."""
        return self._names.setdefault(name, len(self._names))

    def weight(self, name: str) -> int:
        """The index of a tensor of the weight image."""
        return self._weights.setdefault(name, len(self._weights))

    # -- control -----------------------------------------------------------------------------

    def add_body(self, name: str, rows: Sequence[Row]) -> int:
        """The instructions of a body, in order; the last is a ``halt``."""
        first = len(self._rows["instructions"])
        self._rows["instructions"].extend(rows)
        return self._append("bodies", (first, len(rows), self.name(name)))

    def add_context(
        self,
        core: int,
        body: int,
        params: Sequence[int] = (),
        node: int = NONE,
        phase: int = 0,
        stream: int = NONE,
    ) -> int:
        """A control stream on ``core``. ``stream``: an earlier context it continues in a later phase.

        Parameters that are not known yet come with :meth:`set_params`.
        """
        index = len(self._params)
        self._params.append(tuple(params))
        return self._append("contexts", (core, index if stream == NONE else stream, phase, body, 0, 0, node))

    def set_params(self, context: int, params: Sequence[int]) -> None:
        """Give the parameters of a context that was added without."""
        self._params[context] = tuple(params)

    def add_event(self, initial: int = 0) -> int:
        """A counted event."""
        return self._append("events", (initial,))

    def add_stride(self, rows: Sequence[int], cols: Sequence[int] = ()) -> int:
        """Increments of row and column per iteration of the loops, outermost first; missing levels are 0."""
        return self._unique("strides", (*_padded(rows), *_padded(cols)))

    # -- memory ------------------------------------------------------------------------------

    def add_buffer(
        self,
        core: int,
        element: Element,
        slots: int,
        pitch: int,
        *,
        channels: int = 0,
        kind: BufferKind = BufferKind.LOCAL,
        context: int = NONE,
        base: int | None = None,
        phases: tuple[int, int] = (0, 0),
    ) -> int:
        """A buffer of ``slots`` x ``pitch`` elements; ``base`` None: behind all others of the memory."""
        place = self._place(core, base, slots * pitch * element.size_bytes)
        return self._append(
            "buffers",
            (context, core, kind, element, place, slots, pitch, channels or pitch, *phases, *([0] * 9)),
        )

    def add_ring(
        self,
        core: int,
        element: Element,
        slots: int,
        pitch: int,
        geometry: RingGeometry,
        *,
        channels: int,
        fill: int,
        pad: int = 0,
        context: int = NONE,
        base: int | None = None,
        phases: tuple[int, int] = (0, 0),
    ) -> int:
        """A ring: ``fill`` elements make a place full, ``pad`` is an integer or :func:`float_bits`."""
        place = self._place(core, base, slots * pitch * element.size_bytes)
        g = geometry
        if not g.top and not g.bottom and fill == pitch:
            pad = 0  # there is no padding to hold it
        record = (g.first, g.last, g.period, g.advance, g.places, g.top, g.bottom, fill, pad)
        return self._append(
            "buffers",
            (context, core, BufferKind.RING, element, place, slots, pitch, channels, *phases, *record),
        )

    def _place(self, core: int, base: int | None, size: int) -> int:
        place = self._end_of_memory.get(core, 0) if base is None else base
        self._end_of_memory[core] = max(self._end_of_memory.get(core, 0), place + size)
        return place

    def add_route_set(self, routes: Sequence[Route]) -> int:
        """Where a row goes; entries of one multicast share ``group``."""
        first = len(self._rows["routes"])
        self._rows["routes"].extend(routes)
        return self._append("route_sets", (first, len(routes)))

    # -- arrays ------------------------------------------------------------------------------

    def add_coding(self, fields: Sequence[int]) -> int:
        """How weights and inputs become digits: the row form of ``runtime.crossbar.Coding``."""
        return self._unique("codings", tuple(int(f) for f in fields))

    def add_steps(self, steps: Sequence[int]) -> int:
        """Converter steps h, one a plane; returns the first row."""
        key = ("steps", tuple(int(h) for h in steps))
        if key not in self._seen:
            self._seen[key] = len(self._rows["steps"])
            self._rows["steps"].extend((h,) for h in key[1])
        return self._seen[key]

    def add_array_set(
        self,
        context: int,
        core: int,
        coding: int,
        tensor: int,
        block: tuple[int, int, int, int],
        tiles: Sequence[Tile],
        *,
        step_first: int = 0,
        phase: int = 0,
        groups: int = 1,
    ) -> int:
        """Crossbars that hold ``block`` = (k0, k1, n0, n1) of weight ``tensor``; see :meth:`weight`.

        ``groups``: groups of a convolution on the block's diagonal.
        """
        first = len(self._rows["tiles"])
        index = len(self._rows["array_sets"])
        self._rows["tiles"].extend((index, *tile) for tile in tiles)
        return self._append(
            "array_sets",
            (context, core, coding, tensor, *block, first, len(tiles), step_first, phase, groups),
        )

    # -- tables instructions name ------------------------------------------------------------

    def add_window(
        self,
        *,
        kh: int = 1,
        row_step: int = 1,
        kw: int = 1,
        col_step: int = 0,
        c: int,
        lo: int = 0,
        hi: int | None = None,
        pos_step: int = 0,
    ) -> int:
        """What one read gathers; ``hi`` None: to the end of the window. The step of an extent of one is neutral."""
        high = kh * kw * c if hi is None else hi
        rows, cols = row_step if kh > 1 else 1, col_step if kw > 1 else 0
        return self._unique("windows", (kh, rows, kw, cols, c, lo, high, pos_step))

    def add_copy(self, n0: int, s0: int, d0: int, n1: int, s1: int, d1: int) -> int:
        """Extents and strides (source, destination) of a ``copy``, outer then inner."""
        return self._unique("copies", (n0, s0, d0, n1, s1, d1))

    def add_record(self, ints: npt.ArrayLike = (), floats: npt.ArrayLike = ()) -> int:
        """Constants of a digital function; floats are rounded to float32."""
        i, f = np.asarray(ints, np.int64), np.asarray(floats, np.float32)
        key = ("records", (i.tobytes(), f.tobytes()))
        if key not in self._seen:
            row = (len(self._const_i), len(i), len(self._const_f), len(f))
            self._const_i.extend(i.tolist())
            self._const_f.extend(f.tolist())
            self._seen[key] = self._append("records", row)
        return self._seen[key]

    # -- the host's side ---------------------------------------------------------------------

    def add_io(self, tensor: IoTensor) -> int:
        """An input or output of the model."""
        self._io.append(tensor)
        return len(self._io) - 1

    def add_tap(self, tensor: IoTensor) -> int:
        """A tensor that a ``send`` carries and a run may keep."""
        self._taps.append(replace(tensor, direction="tap"))
        return len(self._taps) - 1

    def add_host(self, operator: HostOperator) -> int:
        """A host operator."""
        self._hosts.append(operator)
        return len(self._hosts) - 1

    # -- result ------------------------------------------------------------------------------

    def build(self, machine: Mapping[str, Any], frames: int = 1, total_macs: int = 0) -> Program:
        """The program; the builder may go on afterwards."""
        tables = {name: _columns(name, rows) for name, rows in self._rows.items()}
        counts = np.array([len(p) for p in self._params], np.int64)
        firsts = np.cumsum(counts) - counts
        contexts = {**tables["contexts"]}
        contexts["param_first"] = firsts.astype(np.int32)
        contexts["param_count"] = counts.astype(np.int32)
        tables["contexts"] = contexts
        values = [v for p in self._params for v in p]
        tables["params"] = {"value": np.array(values, np.int64)}
        tables["const_i"] = {"value": np.array(self._const_i, np.int64)}
        tables["const_f"] = {"value": np.array(self._const_f, np.float32)}
        return Program(
            tables=tables,
            names=tuple(self._names),
            io=tuple(self._io),
            hosts=tuple(self._hosts),
            weights=tuple(self._weights),
            machine=machine,
            frames=frames,
            total_macs=total_macs,
            taps=tuple(self._taps),
        )

    def _append(self, table: str, row: Sequence[int]) -> int:
        rows = self._rows[table]
        rows.append(row)
        return len(rows) - 1

    def _unique(self, table: str, row: tuple[int, ...]) -> int:
        key = (table, row)
        if key not in self._seen:
            self._seen[key] = self._append(table, row)
        return self._seen[key]


def _padded(values: Sequence[int]) -> tuple[int, ...]:
    if len(values) > LEVELS:
        raise ValueError(f"loops nest to depth {LEVELS}, a stride has {len(values)} levels")
    return (*values, *([0] * (LEVELS - len(values))))


def _columns(table: str, rows: Sequence[Sequence[int]]) -> Columns:
    """Tuples to columns, once: a column of width w takes w consecutive entries of a tuple."""
    widths = {name: int(spec.partition(":")[2] or 0) for name, spec in SCHEMAS[table].items()}
    total = sum(max(1, w) for w in widths.values())
    matrix = np.array(rows, np.int64).reshape(len(rows), total)
    columns: dict[str, np.ndarray[Any, np.dtype[Any]]] = {}
    start = 0
    for name, width in widths.items():
        stop = start + max(1, width)
        block = matrix[:, start:stop] if width else matrix[:, start]
        columns[name] = np.ascontiguousarray(block, dtype=SCHEMAS[table][name].partition(":")[0])
        start = stop
    return columns
