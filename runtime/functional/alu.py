"""One ``alu`` row in its context: where its operands lie and what its constants are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.runtime.functional.fields import Frame, Operand
from cimc.runtime.functional.problems import BoundsError, ExecutionError
from cimc.runtime.program.rows import Row
from cimc.runtime.program.tables import Program

Action = Callable[[], None]
Access = Callable[[], npt.NDArray[Any]]


@dataclass(frozen=True)
class Constants:
    """The integers and floats of a record, with sizes checked where they are taken."""

    ints: npt.NDArray[np.int64]
    floats: npt.NDArray[np.float32]

    def take_ints(self, count: int) -> list[int]:
        """The first ``count`` integers."""
        if len(self.ints) < count:
            raise ExecutionError(f"the record has {len(self.ints)} integers, the function takes {count}")
        return self.ints[:count].tolist()

    def take_floats(self, count: int) -> list[np.float32]:
        """The first ``count`` floats, as float32."""
        if len(self.floats) < count:
            raise ExecutionError(f"the record has {len(self.floats)} floats, the function takes {count}")
        return list(self.floats[:count])


@dataclass(frozen=True)
class AluRow:
    """An ``alu`` row in its context."""

    frame: Frame
    row: Row
    constants: Constants
    name: str
    """Node name, for messages of the arithmetic."""

    @property
    def n(self) -> int:
        """Channels."""
        return self.row.n

    @property
    def m(self) -> int:
        """Positions."""
        return self.row.m

    @property
    def kind(self) -> np.dtype[Any]:
        """Element type of the destination."""
        return self.frame.dst(self.row).buffer.data.dtype

    def a(self, size: int | None = None) -> Access:
        """The first source, ``size`` elements (default n x m)."""
        return self._read(self.frame.a(self.row), self.n * self.m if size is None else size)

    def b(self, size: int | None = None) -> Access:
        """The second source, ``size`` elements (default n x m)."""
        return self._read(self.frame.b(self.row), self.n * self.m if size is None else size)

    def dst(self, size: int | None = None) -> Access:
        """The destination, to be written."""
        operand, size = self.frame.dst(self.row), self.n * self.m if size is None else size
        row, col = operand.row.bind(self.frame.counters), operand.col.bind(self.frame.counters)
        write = operand.buffer.write
        return lambda: write(row(), col(), size)

    def old_dst(self) -> Access:
        """What the destination holds, n elements."""
        return self._read(self.frame.dst(self.row), self.n)

    def codes(self, lo: int, hi: int) -> np.dtype[Any]:
        """The destination's type, if it holds lo … hi. BoundsError otherwise."""
        kind = self.kind
        if kind.kind not in "iu" or lo < np.iinfo(kind).min or hi > np.iinfo(kind).max:
            raise BoundsError(f"codes {lo} … {hi} are written to a buffer of {kind}")
        return kind

    def floats(self) -> None:
        """BoundsError unless the destination holds float32."""
        if self.kind != np.float32:
            raise BoundsError(f"float32 values are written to a buffer of {self.kind}")

    def _read(self, operand: Operand, size: int) -> Access:
        row, col = operand.row.bind(self.frame.counters), operand.col.bind(self.frame.counters)
        read = operand.buffer.read
        return lambda: read(row(), col(), size)


def record_constants(program: Program, record: int) -> Constants:
    """Record ``record``, empty for none. BoundsError if there is no such record."""
    empty = Constants(np.empty(0, np.int64), np.empty(0, np.float32))
    if record < 0:
        return empty
    if record >= program.count("records"):
        raise BoundsError(f"record {record} is named, the table has {program.count('records')}")
    i, j, f, g = (int(program["records"][c][record]) for c in ("i_first", "i_count", "f_first", "f_count"))
    return Constants(
        np.asarray(program["const_i"]["value"][i : i + j]), np.asarray(program["const_f"]["value"][f : f + g])
    )
