"""Columns of the integer tables that the engine's compiled loop and its Python steps share.

A buffer's record says where its bytes lie and, of a ring, what is held; a slot's record what of it was
written; a row's record what one instruction is in one context; a context's record where it stands.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Int = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

# -- buffers ---------------------------------------------------------------------------------

(DATA, ITEM, ELEMENT, RING, SLOTS, PITCH, FIRST_SLOT, CHANNELS) = range(8)
"""First byte in memory, bytes of an element, its type, 1 for a ring, extents, number of its first slot."""
(FIRST, LAST, PERIOD, ADVANCE, PLACES, TOP, BOTTOM, FILL, PAD) = range(8, 17)
"""A ring's geometry as in the table of buffers; the bits of its padding."""
(FREED, RECEIVED, MOST, FOR_ROOM, FOR_ROWS) = range(17, 22)
"""Places freed and received so far, most held at once; first context that waits for room, for rows."""
BUFFER_WIDTH = 22

# -- slots -----------------------------------------------------------------------------------

(LOW, HIGH, FILLED) = range(3)
"""Hull of what was written; elements that have arrived for the place that is there."""
SLOT_WIDTH = 3

# -- rows: one instruction in one context -------------------------------------------------------

(KIND, FOLLOWING, LEVEL, COUNT, N, M, IMM, GROUP, TAPPED, HITS) = range(10)
"""What it is; the row behind it (of a loop behind its end, of an end behind its loop); loops around; iterations or
windows; fields; rows that may be executed together; whether a tap wants it; how often it was executed."""
(A, A_ROW, A_COL, A_ST, B, B_ROW, B_COL, B_ST, D, D_ROW, D_COL, D_ST) = range(10, 22)
ROW_WIDTH = 22

(STEP, LOOP, END, SEND, RECV, FREE, SIGNAL, WAIT, HALT) = range(9)
"""Kinds of rows: STEP is what Python executes, all others are control."""

ALONE = -1
"""GROUP of a row that is executed by itself."""

# -- contexts ------------------------------------------------------------------------------------

(AT, STATE, LINK, NEXT) = range(4)
"""Row, what it does, the next context in its wait list, the context of the stream's next phase (-1: none)."""
CONTEXT_WIDTH = 4

(READY, BLOCKED, PENDING, HALTED, LATER) = range(5)

# -- events, routes --------------------------------------------------------------------------------

(E_COUNT, E_WAITING) = range(2)
(R_RING, R_SRC_POS, R_SRC_CHAN, R_POSITIONS, R_CHANNELS, R_DST_POS, R_DST_CHAN) = range(7)
ROUTE_WIDTH = 7
(S_FIRST, S_COUNT) = range(2)
"""Of a route set."""

# -- requests: rows whose execution is Python's turn --------------------------------------------------

(Q_CONTEXT, Q_ROW, Q_A_ROW, Q_A_COL, Q_B_ROW, Q_B_COL, Q_D_ROW, Q_D_COL) = range(8)
REQUEST_WIDTH = 8

# -- the loop's own state ---------------------------------------------------------------------------

(H_READY_AT, H_READY, H_REQUESTS) = range(3)
"""Head of the queue of ready contexts, how many there are, how many requests."""
HEAD_WIDTH = 3

NOBODY = -1

Array = npt.NDArray[Any]
