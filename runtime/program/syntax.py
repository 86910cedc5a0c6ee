"""The text form's vocabulary, shared by the disassembler and the assembler (``docs/isa.md``, "Text form")."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from cimc.runtime.program.opcodes import Opcode
from cimc.runtime.program.rows import Row

DEFAULTS = MappingProxyType(Row(0)._asdict())
"""Values of fields that the text leaves out."""

PREFIXES = ("buf", "ring", "whole", "state")
"""What a buffer is called, by :class:`~cimc.runtime.program.opcodes.BufferKind`; decoration when read."""


@dataclass(frozen=True)
class Syntax:
    """How one instruction is written: operands by position, then ``label=value`` for other fields."""

    operands: tuple[str, ...] = ()
    """Of ``dst``, ``a``, ``b``: written ``buffer[row, column]``."""
    labels: tuple[tuple[str, str], ...] = ()
    """(label, field) of numbers; the label ``row`` stands for the place of operand ``b`` without a buffer."""


_READ = Syntax(
    ("dst", "a"),
    (("xb", "xb"), ("window", "imm"), ("n", "n"), ("first", "b_row"), ("count", "b_col"), ("add", "func")),
)
_READ_CORE = Syntax(("dst", "a"), (*_READ.labels, ("m", "m")))
_WRITE = Syntax((), (("xb", "xb"), ("first", "b_row"), ("count", "b_col"), ("again", "func")))
_EVENT = Syntax((), (("event", "imm"), ("n", "n")))

SYNTAX: MappingProxyType[Opcode, Syntax] = MappingProxyType(
    {
        Opcode.HALT: Syntax(),
        Opcode.LOOP: Syntax(),
        Opcode.END: Syntax(),
        Opcode.WRITE_XB: _WRITE,
        Opcode.WRITE_ROW: _WRITE,
        Opcode.READ_XB: _READ,
        Opcode.READ_ROW: _READ,
        Opcode.WRITE_CORE: _WRITE,
        Opcode.READ_CORE: _READ_CORE,
        Opcode.WRITE_LOCAL: Syntax(("a",), (("xb", "xb"), ("row", "b"), ("n", "n"))),
        Opcode.ALU: Syntax(("dst", "a", "b"), (("n", "n"), ("m", "m"), ("record", "imm"))),
        Opcode.COPY: Syntax(("dst", "a"), (("pattern", "imm"),)),
        Opcode.SEND: Syntax(
            ("a",),
            (
                ("n", "n"),
                ("m", "m"),
                ("row", "b"),
                ("routes", "imm"),
                ("tap", "dst"),
                ("tap_position", "dst_row"),
                ("tap_channel", "dst_col"),
            ),
        ),
        Opcode.RECV: Syntax(("a",), (("n", "n"),)),
        Opcode.FREE: Syntax(("a",), (("n", "n"),)),
        Opcode.DMA_IN: Syntax(("dst",), (("io", "imm"), ("n", "n"), ("m", "m"), ("row", "b"))),
        Opcode.DMA_OUT: Syntax(("a",), (("io", "imm"), ("n", "n"), ("m", "m"), ("row", "b"))),
        Opcode.SIGNAL: _EVENT,
        Opcode.WAIT: _EVENT,
        Opcode.HOST: Syntax((), (("operator", "imm"),)),
    }
)

PLAIN = Syntax(("dst", "a", "b"), (("n", "n"), ("m", "m"), ("xb", "xb"), ("imm", "imm")))
"""For operation codes this version does not know."""

ROW_WORDS = MappingProxyType(
    {
        "stride": "strides",
        "body": "bodies",
        "context": "contexts",
        "buffer": "buffers",
        "route_set": "route_sets",
        "route": "routes",
        "array_set": "array_sets",
        "tile": "tiles",
        "coding": "codings",
        "window": "windows",
        "copy_pattern": "copies",
        "record": "records",
        "event": "events",
    }
)
"""First word of a line that is one row of a table, and the table."""

VALUE_TABLES = MappingProxyType({"params": "value", "const_i": "value", "const_f": "value", "steps": "h"})
"""Tables of one column: written as runs of values."""


def float_text(value: np.float32) -> str:
    """A float32 that :func:`text_float` reads back to the same bits."""
    if np.isnan(value):
        return f"0x{int(value.view(np.uint32)):08x}"
    return repr(float(value))


def text_float(text: str) -> np.float32:
    """The inverse of :func:`float_text`; raises ``ValueError``."""
    if text.startswith("0x"):
        return np.uint32(int(text, 16)).view(np.float32)
    return np.float32(float(text))
