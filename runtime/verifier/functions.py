"""What each digital function takes: operands, element types, constants (``docs/isa.md``, "Digital functions")."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from cimc.runtime.program.opcodes import AluFunction, Element

CODES = frozenset((Element.I8, Element.U8, Element.I16, Element.U16))
SUMS = frozenset((Element.I32, Element.I64))
INTEGERS = CODES | SUMS
FLOAT = frozenset((Element.F32,))
ANY = INTEGERS | FLOAT
WIDE = frozenset((Element.I64,))

_TYPES = frozenset[Element]


@dataclass(frozen=True)
class Function:
    """Legal element types of each operand (empty: the operand is absent) and the record's layout."""

    dst: _TYPES
    a: _TYPES = frozenset()
    b: _TYPES = frozenset()
    ints: int = 0
    """Integers of the record before its lists; NONE-less functions without constants need no record."""
    floats: int = 0
    channels_at: int = -1
    """Index of N, the number of constants by channel that follow as integers (and floats), q0 = ``b_col``."""
    channel_floats: bool = False
    cells_at: int = -1
    """Index of OH, OW of a pool, whose OH + OW cell counts follow; the row is ``b_row``."""
    windowed: bool = False
    """The first integer is a row of ``windows``."""
    clamp_at: int = -1
    """Index of lo, hi of an integer result."""
    same_type: bool = False
    """The result has the element type of ``a``."""


FUNCTIONS = MappingProxyType(
    {
        AluFunction.FILL: Function(ANY, ints=1),
        AluFunction.ADD_INT: Function(INTEGERS, INTEGERS, INTEGERS),
        AluFunction.REQUANTISE: Function(CODES, SUMS, ints=4, channels_at=3, channel_floats=True, clamp_at=1),
        AluFunction.ACC_TO_FLOAT: Function(FLOAT, SUMS, ints=1, channels_at=0, channel_floats=True),
        AluFunction.ADD_CODES: Function(CODES, CODES, CODES, ints=5, floats=3, clamp_at=3),
        AluFunction.ADD_FLOAT: Function(FLOAT, FLOAT, FLOAT, floats=2),
        AluFunction.CLAMP_CODES: Function(CODES, CODES, ints=2, clamp_at=0, same_type=True),
        AluFunction.CLIP_FLOAT: Function(FLOAT, FLOAT, floats=2),
        AluFunction.QUANTISE: Function(CODES, FLOAT, ints=3, floats=1, clamp_at=1),
        AluFunction.DEQUANTISE: Function(FLOAT, CODES, ints=1, floats=1),
        AluFunction.REQUANTISE_CODES: Function(CODES, CODES, ints=4, floats=2, clamp_at=2),
        AluFunction.MAX_POOL: Function(
            CODES | FLOAT, CODES | FLOAT, ints=3, windowed=True, clamp_at=1, same_type=True
        ),
        AluFunction.AVERAGE_POOL: Function(
            CODES, CODES, ints=7, floats=2, windowed=True, cells_at=5, clamp_at=3
        ),
        AluFunction.AVERAGE_POOL_FLOAT: Function(FLOAT, FLOAT, ints=3, windowed=True, cells_at=1),
        AluFunction.SUM_POSITIONS: Function(WIDE, CODES, ints=1),
        AluFunction.MEAN_CODES: Function(CODES, WIDE, ints=4, floats=2, clamp_at=2),
        AluFunction.SOFTMAX: Function(FLOAT, FLOAT),
    }
)
"""By digital function."""
