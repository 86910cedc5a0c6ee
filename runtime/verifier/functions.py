"""What each digital function takes: operands, element types, constants (``docs/isa.md``, "Digital functions")."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

from cimc.runtime.numerics.binary import BINARY
from cimc.runtime.numerics.rowwise import REDUCTIONS
from cimc.runtime.numerics.unary import UNARY_PARAMETERS
from cimc.runtime.program.opcodes import AluFunction, Element

CODES = frozenset((Element.I8, Element.U8, Element.I16, Element.U16))
SUMS = frozenset((Element.I32, Element.I64))
INTEGERS = CODES | SUMS
FLOAT = frozenset((Element.F32,))
ANY = INTEGERS | FLOAT
WIDE = frozenset((Element.I64,))

INDICES = frozenset((Element.I32, Element.I64))

_TYPES = frozenset[Element]
_Extent = Callable[[int, int, list[int]], int]
"""Elements of an operand for n channels x m positions and the record's integers."""


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
    more_floats: Callable[[list[int]], int] | None = None
    """Floats of the record beyond ``floats``, by its integers."""
    broadcast: bool = False
    """The record begins with N and the steps in its N floats of row (``b_row``), position, channel (from ``b_col``)."""
    whole_at: int = -1
    """Index of the number of channels, which n must be."""
    extent_dst: _Extent | None = None
    """Elements of the destination where they are not n x m; so for the sources."""
    extent_a: _Extent | None = None
    extent_b: _Extent | None = None


def _functions(names: list[str], function: Function) -> dict[AluFunction, Function]:
    return dict.fromkeys((AluFunction[name.upper()] for name in names), function)


def _first(ints: list[int]) -> int:
    return ints[0]


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
        **{AluFunction[f.upper()]: Function(FLOAT, FLOAT, floats=k) for f, k in UNARY_PARAMETERS.items()},
        **_functions([f for f in BINARY if f != "add"], Function(FLOAT, FLOAT, FLOAT)),
        **_functions(
            [f"{f}_constant" for f in BINARY],
            Function(FLOAT, FLOAT, ints=5, more_floats=_first, broadcast=True),
        ),
        AluFunction.CONSTANT: Function(FLOAT, ints=4, more_floats=_first, broadcast=True),
        AluFunction.LAYER_NORM: Function(
            FLOAT, FLOAT, ints=1, floats=1, more_floats=lambda i: 2 * i[0], whole_at=0
        ),
        AluFunction.RMS_NORM: Function(FLOAT, FLOAT, ints=1, floats=1, more_floats=_first, whole_at=0),
        AluFunction.LOCAL_RESPONSE_NORM: Function(FLOAT, FLOAT, ints=1, floats=3),
        **_functions(list(REDUCTIONS), Function(FLOAT, FLOAT, extent_dst=lambda n, m, i: m)),
        AluFunction.LOOKUP: Function(
            FLOAT,
            INDICES,
            ints=2,
            more_floats=lambda i: i[0] * i[1],
            whole_at=1,
            extent_a=lambda n, m, i: m,
        ),
        AluFunction.MATMUL: Function(
            FLOAT,
            FLOAT,
            FLOAT,
            ints=3,
            extent_a=lambda n, m, i: m * i[0],
            extent_b=lambda n, m, i: (i[0] - 1) * i[1] + (n - 1) * i[2] + 1,
        ),
    }
)
"""By digital function."""
