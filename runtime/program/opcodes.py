"""Operation codes, digital functions, element types and buffer kinds of the instruction stream.

The numbers are part of the file format (``docs/isa.md``): append, never renumber.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt


class Opcode(IntEnum):
    """One row of the instruction table does one of these."""

    HALT = 0
    LOOP = 1
    END = 2
    WRITE_XB = 3
    WRITE_ROW = 4
    READ_XB = 5
    READ_ROW = 6
    ALU = 7
    COPY = 8
    SEND = 9
    RECV = 10
    FREE = 11
    DMA_IN = 12
    DMA_OUT = 13
    SIGNAL = 14
    WAIT = 15
    HOST = 16
    WRITE_CORE = 17
    READ_CORE = 18
    WRITE_LOCAL = 19


READS = frozenset((Opcode.READ_XB, Opcode.READ_ROW, Opcode.READ_CORE))
"""Operations that multiply by the cells of an array set."""
IMAGE_WRITES = frozenset((Opcode.WRITE_XB, Opcode.WRITE_ROW, Opcode.WRITE_CORE))
"""Operations that program the cells of an array set from the weight image."""
WRITES = IMAGE_WRITES | {Opcode.WRITE_LOCAL}
"""Operations that program the cells of an array set."""
BY_WORDLINE = frozenset((Opcode.READ_ROW, Opcode.WRITE_ROW))
"""Of these, the ones that take a range of wordlines; ``write_local`` takes rows of the set, the others tiles."""


class AluFunction(IntEnum):
    """Functions of the digital unit; operands and constants of each are in ``docs/isa.md``."""

    FILL = 0
    ADD_INT = 1
    REQUANTISE = 2
    ACC_TO_FLOAT = 3
    ADD_CODES = 4
    ADD_FLOAT = 5
    CLAMP_CODES = 6
    CLIP_FLOAT = 7
    QUANTISE = 8
    DEQUANTISE = 9
    REQUANTISE_CODES = 10
    MAX_POOL = 11
    AVERAGE_POOL = 12
    AVERAGE_POOL_FLOAT = 13
    SUM_POSITIONS = 14
    MEAN_CODES = 15
    SOFTMAX = 16
    NEG = 17
    ABS = 18
    SQRT = 19
    RECIPROCAL = 20
    FLOOR = 21
    CEIL = 22
    ROUND = 23
    SIGN = 24
    LEAKY_RELU = 25
    EXP = 26
    LOG = 27
    ERF = 28
    TANH = 29
    SIGMOID = 30
    SILU = 31
    GELU = 32
    GELU_TANH = 33
    HARD_SIGMOID = 34
    HARD_SWISH = 35
    ELU = 36
    SOFTPLUS = 37
    SIN = 38
    COS = 39
    MUL = 40
    SUB = 41
    DIV = 42
    POW = 43
    MAX = 44
    MIN = 45
    PRELU = 46
    ADD_CONSTANT = 47
    MUL_CONSTANT = 48
    SUB_CONSTANT = 49
    DIV_CONSTANT = 50
    POW_CONSTANT = 51
    MAX_CONSTANT = 52
    MIN_CONSTANT = 53
    PRELU_CONSTANT = 54
    CONSTANT = 55
    LAYER_NORM = 56
    RMS_NORM = 57
    LOCAL_RESPONSE_NORM = 58
    REDUCE_SUM = 59
    REDUCE_MEAN = 60
    REDUCE_MAX = 61
    REDUCE_MIN = 62
    LOOKUP = 63
    MATMUL = 64
    LESS = 65
    LESS_EQUAL = 66
    EQUAL = 67
    KEEP = 68
    DROP = 69
    LESS_CONSTANT = 70
    LESS_EQUAL_CONSTANT = 71
    EQUAL_CONSTANT = 72
    KEEP_CONSTANT = 73
    DROP_CONSTANT = 74


class BufferKind(IntEnum):
    """How a buffer's slots are handed out."""

    LOCAL = 0
    RING = 1
    WHOLE = 2
    STATE = 3


class Element(IntEnum):
    """Element types a buffer can hold."""

    I8 = 0
    U8 = 1
    I16 = 2
    U16 = 3
    I32 = 4
    I64 = 5
    F32 = 6

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The numpy type of one element."""
        return np.dtype(_DTYPES[self])

    @property
    def size_bytes(self) -> int:
        """Bytes of one element."""
        return self.dtype.itemsize

    @staticmethod
    def of(dtype: npt.DTypeLike) -> Element:
        """The element type that holds ``dtype``; raises ``ValueError`` if there is none."""
        wanted = np.dtype(dtype).newbyteorder("=")
        if wanted not in _ELEMENTS:
            raise ValueError(f"no element type holds {wanted.name}")
        return _ELEMENTS[wanted]


_DTYPES: dict[Element, str] = {
    Element.I8: "int8",
    Element.U8: "uint8",
    Element.I16: "int16",
    Element.U16: "uint16",
    Element.I32: "int32",
    Element.I64: "int64",
    Element.F32: "float32",
}
_ELEMENTS = {np.dtype(name): element for element, name in _DTYPES.items()}
