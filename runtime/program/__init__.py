"""The program format: columnar tables, their files and their text form (``docs/isa.md``)."""

from cimc.runtime.program.opcodes import AluFunction, BufferKind, Element, Opcode
from cimc.runtime.program.tables import (
    AGAIN,
    FORMAT_VERSION,
    IMAGES,
    LEVELS,
    NONE,
    SCHEMAS,
    Columns,
    HostOperator,
    IoTensor,
    Program,
    is_parameter,
    parameter,
    parameter_index,
)

__all__ = [
    "AGAIN",
    "FORMAT_VERSION",
    "IMAGES",
    "LEVELS",
    "NONE",
    "SCHEMAS",
    "AluFunction",
    "BufferKind",
    "Columns",
    "Element",
    "HostOperator",
    "IoTensor",
    "Opcode",
    "Program",
    "is_parameter",
    "parameter",
    "parameter_index",
]
