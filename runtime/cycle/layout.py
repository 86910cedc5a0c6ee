"""The kernel's memory: one flat int64 array, and the columns of the records in it.

Everything the compiled kernel touches lies in one array, and records point at each other by address (index
into that array). One array is cheap to hand from function to function, and an address costs no arithmetic;
a tuple of arrays made the same kernel thirty times slower. :class:`World` shows the tables as matrices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cimc.runtime.program.opcodes import Opcode

Int = npt.NDArray[np.int64]


class Memory(Protocol):
    """The array as the kernel's functions see it: an address gives an integer."""

    def __getitem__(self, at: int) -> int: ...

    def __setitem__(self, at: int, value: int) -> None: ...


# Plain ints of the opcodes: the compiler of the kernel wants constants, not enumerations.
HALT, LOOP, END = int(Opcode.HALT), int(Opcode.LOOP), int(Opcode.END)
WRITE, READ = int(Opcode.WRITE_XB), int(Opcode.READ_XB)
WRITE_LOCAL = int(Opcode.WRITE_LOCAL)
ALU, COPY, SEND = int(Opcode.ALU), int(Opcode.COPY), int(Opcode.SEND)
RECV, FREE = int(Opcode.RECV), int(Opcode.FREE)
DMA_IN, DMA_OUT = int(Opcode.DMA_IN), int(Opcode.DMA_OUT)
SIGNAL, WAIT, HOST = int(Opcode.SIGNAL), int(Opcode.WAIT), int(Opcode.HOST)

ID_BITS = 24
"""Low bits of a heap key: the context, or the number of contexts plus the arrival's record."""
ID_MASK = (1 << ID_BITS) - 1
LAST_TIME = (1 << (62 - ID_BITS)) - 1
"""No event may lie behind this cycle."""
LEVELS = 6

# -- head of the memory: machine constants, then what the run counts --------------------------------
(
    K_CONTEXTS,
    K_LOCAL_NUM,
    K_LOCAL_DEN,
    K_GLOBAL_NUM,
    K_GLOBAL_DEN,
    K_LINK_NUM,
    K_LINK_DEN,
    K_GLOBAL_LATENCY,
    K_HOP,
    K_COLUMNS,
    K_GLOBAL_NODE,
    K_LOCAL_ENERGY,
    K_GLOBAL_ENERGY,
    K_HOP_ENERGY,
    K_BUS,
    K_PLAIN,
    K_TRACE,
    K_RECORDS,
    K_BINS,
    K_APART,
    K_ISSUES,
) = range(21)
"""Widths are fractions num/den bytes per cycle, energies attojoules per byte (and hop). APART: shared units serve
everybody at once. ISSUES: records of issues there is room for."""
(
    AT_CONTEXTS,
    AT_LINKS,
    AT_ARRIVALS,
    AT_CHOSEN,
    AT_HEAP,
    AT_STARTS,
    AT_ENDS,
    AT_BINS,
    AT_TRACE,
    AT_ISSUES,
) = range(21, 31)
"""Addresses of tables that nothing points at."""
(
    O_STATUS,
    O_END,
    O_TRACED,
    O_WINDOW,
    O_MARK,
    O_RECORD,
    O_RING,
    O_SIZE,
    O_LIMIT,
    O_WRITTEN,
    O_ISSUES,
) = range(32, 43)
"""Status, last cycle, slices traced, cycles per bin, multicasts so far, next arrival record, the ring an
error is about, keys in the heap, first cycle the bins do not reach, end of the last array write, issues so far."""
HEADER = 48

DONE, DEADLOCK, TOO_LATE, OVERFULL, BAD_RECV, NO_RECORD = range(6)

PARKED = -1
"""Answer of an instruction: its context hangs in a wait list. ``-2 - cycle``: it asks again then."""

# -- one resolved instruction of one context ----------------------------------------------------------
OP, JUMP, LEVEL, N = 0, 1, 2, 3
"""``jump``: address. N of a send is the number of its routes."""
A_MODE, A_X, D_MODE, D_X, B_MODE, B_X = 4, 5, 6, 7, 8, 9
UNIT, SET, OCCUPANCY, LATENCY, PORT, ENERGY, COUNT = 10, 11, 12, 13, 14, 15, 16
"""Unit that is asked for in the order of time; own array set; cycles; attojoules; times executed."""
VARIANT, VARIANT_ST = 17, 18
"""First cost record and the stride that numbers them, when the cost follows the loops; else -1."""
IMM, ROW, ROW_ST, SIZE = 19, 20, 21, 22
"""Routes, event or host operator; row number and its stride; element bytes of a sent row or weight bytes."""
ADDS = 23
"""Whether the destination is read too."""
A_COLD, D_COLD, B_COLD = 24, 28, 32
"""Operand details that only :data:`GENERAL` operands need: row, stride, span, step."""
CORE, UNIT2, CYCLES2, LATENCY2, ENERGY2 = 36, 37, 38, 39, 40
"""Core of the context; the second request of a DMA, or of a read for shift-and-add in the vector unit (0
cycles: none): unit, cycles, latency behind them, attojoules."""
M_SOURCE_CYCLES, M_SOURCE_BYTES, M_LINK_CYCLES, M_HOP_BYTES, M_STORE_CYCLES, M_STORE_BYTES = range(41, 47)
M_GLOBAL_CYCLES, M_GLOBAL_BYTES = 47, 48
"""What sends and weight transports did so far: port cycles and bytes at the source; link cycles, bytes x
hops; the same at ports of local buffers and of the global buffer that took a part in."""
ROW_WIDTH = 49

COLD_ROW, COLD_ST, COLD_SPAN, COLD_STEP = 0, 1, 2, 3
NOTHING, RING, FIXED, GENERAL = 0, 1, 2, 3
"""Operand modes: none; a ring; one known slot; slots that follow the loops. X is the buffer or the slot."""

# -- cost records of instructions whose cost follows the loops ----------------------------------------
V_OCCUPANCY, V_LATENCY, V_PORT, V_ENERGY, V_SIZE, V_CYCLES2, V_ENERGY2, V_COUNT = range(8)
VARIANT_WIDTH = 8

# -- buffers: geometry, then what changes ---------------------------------------------------------------
SLOT_BASE, SLOTS, R_FIRST, R_LAST, R_PERIOD, R_ADVANCE, R_PLACES, R_TOP, R_BOTTOM, R_FILL, R_CORE = range(11)
R_PORT = 11
RECEIVED, RECEIVED_AT, FREED_PLACES, LAST_READ, CONSUMER, CONSUMER_SLOT, ROOM_HEAD, HIGH = range(12, 20)
"""Places received, the same modulo the image, places freed, end of the last read, who waits for which
slot, the list of senders that wait for room, most places in use."""
BUFFER_WIDTH = 20

# -- slots ------------------------------------------------------------------------------------------------
READY, READ_DONE, FILLED, SLOT_HEAD = 0, 1, 2, 3
"""Last write complete; last read complete (of a ring: freed); elements arrived (of other buffers: stores
still under way); list of contexts that wait for a store."""
SLOT_WIDTH = 4

# -- contexts ---------------------------------------------------------------------------------------------
C_PC, C_TIME, C_NEXT, C_LINK, C_NEED, C_STATE, C_NUMBER = range(7)
"""Next instruction, earliest cycle of it, the context of the stream's next phase, next in a wait list,
place it needs room for, state, number."""
C_COUNTERS = 7
C_STALLS = C_COUNTERS + LEVELS
WAITING, RUNNABLE, HALTED, ON_RECV, ON_ROOM, ON_SLOT, ON_EVENT = range(7)
"""States; WAITING: for the stream's earlier phase."""
STALL_CAUSES = ("recv", "room", "unit", "operand", "event")
STALL_RECV, STALL_ROOM, STALL_UNIT, STALL_OPERAND, STALL_EVENT = range(C_STALLS, C_STALLS + 5)
CONTEXT_WIDTH = C_STALLS + len(STALL_CAUSES)

# -- units, array sets, links, routes, events, operators, arrivals, trace -----------------------------------
FREE_AT, BUSY = 0, 1
UNIT_WIDTH = 2
"""Of shared units and of array sets."""
MARK, HEAD = 2, 3
LINK_WIDTH = 4
"""Of links also the last multicast that took it, and when its head left."""
T_RING, T_GROUP, T_ELEMENTS = 0, 1, 2
ROUTE_WIDTH = 3
CHOSEN_WIDTH = 3
"""Route, slot, place."""
V_SIGNALS, V_TIME, V_HEAD = 0, 1, 2
EVENT_WIDTH = 3
HOST_WIDTH = 3
"""Addresses in the list of slots: first input, first output, end."""
E_KIND, E_SLOT, E_BUFFER, E_ELEMENTS, E_UNIT, E_CYCLES, E_LATENCY, E_ROW, E_IMAGE, E_ENERGY = range(10)
ARRIVAL_WIDTH = 10
"""Requests that lie in the future when they become known."""
UNUSED, RING_PART, SLOT_STORE, HOST_STORE = 0, 1, 2, 3
X_UNIT, X_START, X_CYCLES, X_ROW, X_CONTEXT = range(5)
TRACE_WIDTH = 5
"""Unit (array sets too: their address, -1 the context's own wait), cycles, instruction, context or -1."""
I_ROW, I_CONTEXT, I_START, I_A, I_B, I_C = range(6)
ISSUE_WIDTH = 6
"""Instruction, context, cycle; then of what computes: destination slot, source slot, its costs; of ``recv`` and
``free``: ring, place behind the last one, their number; of ``send``: cycles of the port, source slot, attojoules. A
target of a ``send`` stands before it, with -1 for the instruction: ring, place, cycle of arrival."""

WIDTHS = {
    "rows": ROW_WIDTH,
    "variants": VARIANT_WIDTH,
    "strides": LEVELS,
    "buffers": BUFFER_WIDTH,
    "slots": SLOT_WIDTH,
    "routes": ROUTE_WIDTH,
    "contexts": CONTEXT_WIDTH,
    "events": EVENT_WIDTH,
    "hosts": HOST_WIDTH,
    "host_slots": 1,
    "sets": UNIT_WIDTH,
    "units": UNIT_WIDTH,
    "links": LINK_WIDTH,
    "chosen": CHOSEN_WIDTH,
    "starts": 1,
    "ends": 1,
    "arrivals": ARRIVAL_WIDTH,
    "heap": 1,
    "bins": 1,
    "trace": TRACE_WIDTH,
    "issues": ISSUE_WIDTH,
}
"""Tables in the order of the memory: what is touched most comes first and stays together."""


@dataclass(frozen=True)
class World:
    """The memory of one run and where its tables are."""

    memory: Int
    sizes: dict[str, int]
    """Rows of each table."""

    @classmethod
    def sized(cls, sizes: dict[str, int]) -> World:
        """Zeroed memory for tables of the given numbers of rows."""
        total = HEADER + sum(sizes[name] * width for name, width in WIDTHS.items())
        return cls(np.zeros(total, np.int64), sizes)

    def base(self, table: str) -> int:
        """Address of a table."""
        at = HEADER
        for name, width in WIDTHS.items():
            if name == table:
                return at
            at += self.sizes[name] * width
        raise KeyError(table)

    def table(self, name: str) -> Int:
        """A table as an int64 matrix that shares the memory."""
        base, width = self.base(name), WIDTHS[name]
        return self.memory[base : base + self.sizes[name] * width].reshape(-1, width)

    def address(self, table: str, index: Int) -> Int:
        """Addresses of rows of a table; negative indices stay as they are."""
        return np.where(index < 0, index, self.base(table) + index * WIDTHS[table])
