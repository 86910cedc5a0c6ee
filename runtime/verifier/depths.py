"""Least depths of rings at which a program runs to its end, in any order of execution."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.diagnostics import CimError
from cimc.runtime.program.opcodes import BufferKind
from cimc.runtime.program.tables import Program
from cimc.runtime.verifier.code import decode
from cimc.runtime.verifier.findings import RULES
from cimc.runtime.verifier.flow import DONE, R_SLOTS, TWICE, build_network, run
from cimc.runtime.verifier.flow_check import blocked, step_at
from cimc.runtime.verifier.operands import Tables


def ring_depths(
    program: Program, window: npt.NDArray[np.integer[Any]], images: int = 2
) -> npt.NDArray[np.int64]:
    """Slots of every buffer: ``window`` for a ring, grown where the program needs it.

    ``window`` (one entry per buffer): the least slots of each ring, the places its turn reads; for other
    buffers it is returned as it is. The contexts run on row counts; on a stop with contexts left, the ring
    among those that block a ``send`` that has grown least in bytes gets one slot more, and the run goes on: where rows
    of a wide concatenation wait, they wait where they take the least room. Bodies and references must be sound;
    ``buffers.slots`` is not looked at. Raises
    :class:`~cimc.diagnostics.CimError` with the node if a row is missing (nothing blocks a send), or
    arrives twice, and ``ValueError`` for a body that is malformed.
    """
    decoded = decode(program, images)
    if decoded.findings:
        raise ValueError("\n".join(str(finding) for finding in decoded.findings))
    tables = Tables.of(program)
    network = build_network(decoded, tables, window)
    status, context, ring = run(network, images, grow=True)
    if status == DONE:
        rings = np.array(tables.buffers["kind"]) == BufferKind.RING
        return np.where(rings, network.rings[:, R_SLOTS], window).astype(np.int64)
    if status == TWICE:
        message = f"a row arrives at ring {ring} for a place that is full or was received already"
        decoded.report("P072", message, step_at(decoded, network, context))
    else:
        for step, message in blocked(decoded, network)[:3]:
            decoded.report("P080", message, step)
    first = decoded.findings[0]
    others = "; ".join(str(finding) for finding in decoded.findings[1:])
    raise CimError(
        f"{first.message} [{first.rule}: {RULES[first.rule]}]" + (f"; {others}" if others else ""),
        where=first.where,
    )
