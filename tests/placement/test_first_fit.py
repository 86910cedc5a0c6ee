"""First fit: memory that it keeps free for deeper rings becomes theirs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import cimc
from cimc import models
from cimc.backends.registry import resolve_backend
from cimc.backends.schema import Architecture
from cimc.mapping_options import MappingOptions
from cimc.runtime.program import BufferKind, Element, Program

ROOMY = 3000
"""Bytes with which no context lacks any, small enough that digital stages are cut as they are with a little less."""


def machine(local_buffer_bytes: int) -> Architecture:
    """``isaac`` with one context a core, and a local memory of so many bytes."""
    fields = resolve_backend("isaac").architecture().model_dump(mode="json")
    fields["core"] |= {"contexts": 1, "local_buffer_bytes": local_buffer_bytes}
    return Architecture.model_validate(fields)


def ring_slots(program: Program) -> list[int]:
    """Slots of every ring of a core."""
    buffers = program["buffers"]
    return buffers["slots"][(buffers["kind"] == BufferKind.RING) & (buffers["core"] >= 0)].tolist()


def fullest_bytes(program: Program) -> int:
    """Bytes of the buffers of the core that has most of them."""
    buffers = program["buffers"]
    sizes = np.array([Element(e).size_bytes for e in buffers["element"].tolist()])
    local = buffers["core"] >= 0
    taken = (buffers["slots"] * buffers["pitch"] * sizes)[local]
    return int(np.bincount(buffers["core"][local], taken).max())


# A memory of just what the fullest core takes where there is more gives all rings the same depth, so that what first
# fit keeps free for them is given out; with one byte less some ring is shallower.
def test_rings_take_all_that_cores_have(tmp_path: Path):
    path = models.export_onnx("digits", tmp_path / "digits.onnx")

    def program(local_buffer_bytes: int) -> Program:
        return cimc.compile(path, machine(local_buffer_bytes), mapping=MappingOptions(copies=1)).program

    roomy = program(ROOMY)
    taken = fullest_bytes(roomy)
    assert taken < ROOMY
    assert ring_slots(program(taken)) == ring_slots(roomy)
    assert sum(ring_slots(program(taken - 1))) < sum(ring_slots(roomy))
