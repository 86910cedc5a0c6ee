"""The ``isa`` dialect: one short body per stage and role, in terms of parameters (docs/isa.md).

A body is what all contexts of a stage and role share. Buffers, counts, routes and array sets that differ between
contexts are parameters, named by the body; the table of contexts that run it is not IR. The emitter turns every
operation into one row of the instruction table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr, UnitAttr
from xdsl.ir import Block, Dialect, Operation, Region
from xdsl.irdl import (
    irdl_op_definition,
    opt_prop_def,
    prop_def,
    region_def,
    traits_def,
)
from xdsl.traits import NoTerminator
from xdsl.utils.exceptions import VerifyException

from cimc.dialects.base import CimOperation
from cimc.dialects.isa_channels import DmaOp, FreeOp, HostOp, RecvOp, SendOp, SignalOp, WaitOp
from cimc.dialects.isa_values import (
    Address,
    AddressAttr,
    IsaOperation,
    Value,
    ValueAttr,
    address_or_none,
    value_or_none,
)
from cimc.dialects.levels import Level

MAX_LOOPS = 6
"""Loops nest to this depth (docs/isa.md)."""


@irdl_op_definition
class BodyOp(CimOperation):
    """The instructions of all contexts of one stage and role; ``params`` names their parameters in order.

    ```mlir
    isa.body "conv1.main" params ["arrays", "x"] {
      isa.write #isa.value<"arrays"> [0, 128] by_row
      isa.loop images {
        isa.recv #isa.value<"x"> #isa.value<1>
        isa.free #isa.value<"x"> #isa.value<1>
      }
    }
    ```
    """

    name = "isa.body"

    label = prop_def(StringAttr)
    params = prop_def(ArrayAttr[StringAttr])
    node = prop_def(StringAttr)
    body = region_def("single_block")

    traits = traits_def(NoTerminator())
    assembly_format = "$label `node` $node `params` $params attr-dict-with-keyword $body"

    def __init__(self, label: str, node: str, params: Sequence[str], ops: Sequence[Operation]):
        super().__init__(
            properties={
                "label": StringAttr(label),
                "node": StringAttr(node),
                "params": ArrayAttr([StringAttr(p) for p in params]),
            },
            regions=[Region(Block(ops))],
        )

    def verify_(self) -> None:
        known = {p.data for p in self.params}
        if len(known) != len(self.params):
            raise VerifyException("parameters have different names")
        for op in self.walk():
            unknown = [v for v in parameters_of(op) if v not in known]
            if unknown:
                raise VerifyException(f"{op.name} names parameters the body has not: {', '.join(unknown)}")
        depth = _depth(self.body.block)
        if depth > MAX_LOOPS:
            raise VerifyException(f"loops nest to depth {MAX_LOOPS}, got {depth}")


def parameters_of(op: Operation) -> Iterator[str]:
    """Names of the parameters one operation uses."""
    for attr in op.properties.values():
        if isinstance(attr, ValueAttr) and isinstance(attr.data, str):
            yield attr.data
        if isinstance(attr, AddressAttr):
            yield from (v for v in (attr.data.buffer, attr.data.row, attr.data.col) if isinstance(v, str))


def _depth(block: Block) -> int:
    inner = [_depth(op.body.block) + 1 for op in block.ops if isinstance(op, LoopOp)]
    return max(inner, default=0)


@irdl_op_definition
class LoopOp(IsaOperation):
    """Repeat a block ``count`` times, or once per image of the run.

    ```mlir
    isa.loop count #isa.value<"turns"> {
      isa.recv #isa.value<"x"> #isa.value<1>
    }
    ```
    """

    name = "isa.loop"

    images = opt_prop_def(UnitAttr)
    count = opt_prop_def(ValueAttr)
    body = region_def("single_block")

    traits = traits_def(NoTerminator())
    assembly_format = "(`images` $images^)? (`count` $count^)? attr-dict-with-keyword $body"

    def __init__(self, count: Value | None, ops: Sequence[Operation]):
        super().__init__(
            properties={"images": UnitAttr() if count is None else None, "count": value_or_none(count)},
            regions=[Region(Block(ops))],
        )

    def verify_(self) -> None:
        if (self.images is None) == (self.count is None):
            raise VerifyException("a loop counts images, or has a count")


class _ArrayOp(IsaOperation):
    """Shared fields of writes and reads: an array set and a range of its tiles or wordlines."""

    arrays = prop_def(ValueAttr)
    start = prop_def(ValueAttr)
    count = prop_def(ValueAttr)
    by_row = opt_prop_def(UnitAttr)
    by_core = opt_prop_def(UnitAttr)


@irdl_op_definition
class WriteOp(_ArrayOp):
    """Program tiles (or, ``by_row``, wordlines) start .. start+count of an array set from the weight image.

    ``by_core``: the core is the unit that software controls (CM); tiles as well. ``again``: in every call of the
    model; without, once, and the cells keep it.

    ```mlir
    isa.write #isa.value<"arrays"> #isa.value<0> #isa.value<128> by_row
    ```
    """

    name = "isa.write"
    again = opt_prop_def(UnitAttr)
    assembly_format = (
        "$arrays $start $count (`by_row` $by_row^)? (`by_core` $by_core^)? (`again` $again^)? attr-dict"
    )

    def __init__(
        self,
        arrays: Value,
        start: Value,
        count: Value,
        *,
        by_row: bool = False,
        by_core: bool = False,
        again: bool = False,
    ):
        super().__init__(
            properties={
                "arrays": ValueAttr(arrays),
                "start": ValueAttr(start),
                "count": ValueAttr(count),
                "by_row": UnitAttr() if by_row else None,
                "by_core": UnitAttr() if by_core else None,
                "again": UnitAttr() if again else None,
            }
        )


@irdl_op_definition
class WriteLocalOp(IsaOperation):
    """Program ``n`` rows of an array set, from ``row`` on, with codes in local memory.

    ```mlir
    isa.write_local #isa.value<"arrays"> row #isa.at<-1[0, 0] rows [0, 1]> n #isa.value<1>
      source #isa.at<"in1"[0, 0]>
    ```
    """

    name = "isa.write_local"

    arrays = prop_def(ValueAttr)
    row = prop_def(AddressAttr)
    n = prop_def(ValueAttr)
    source = prop_def(AddressAttr)
    assembly_format = "$arrays `row` $row `n` $n `source` $source attr-dict"

    def __init__(self, arrays: Value, row: Address, source: Address, *, n: Value = 1):
        super().__init__(
            properties={
                "arrays": ValueAttr(arrays),
                "row": AddressAttr(row),
                "n": ValueAttr(n),
                "source": AddressAttr(source),
            }
        )


@irdl_op_definition
class ReadOp(_ArrayOp):
    """One window through an array set: ``n`` sums to ``dst``. ``by_core`` (CM): ``m`` windows, a whole row.

    ```mlir
    isa.read #isa.value<"arrays"> #isa.value<0> #isa.value<128> by_row source #isa.at<"x"[0, 0]>
      window #isa.value<"window"> to #isa.at<"acc"[0, 0]> n #isa.value<"n">
    ```
    """

    name = "isa.read"

    source = prop_def(AddressAttr)
    window = prop_def(ValueAttr)
    dst = prop_def(AddressAttr)
    n = prop_def(ValueAttr)
    m = opt_prop_def(ValueAttr)
    assembly_format = (
        "$arrays $start $count (`by_row` $by_row^)? (`by_core` $by_core^)? "
        "`source` $source `window` $window `to` $dst `n` $n (`m` $m^)? attr-dict"
    )

    def __init__(
        self,
        arrays: Value,
        start: Value,
        count: Value,
        source: Address,
        window: Value,
        dst: Address,
        n: Value,
        *,
        by_row: bool = False,
        positions: Value | None = None,
    ):
        super().__init__(
            properties={
                "arrays": ValueAttr(arrays),
                "start": ValueAttr(start),
                "count": ValueAttr(count),
                "by_row": UnitAttr() if by_row else None,
                "by_core": UnitAttr() if positions is not None else None,
                "source": AddressAttr(source),
                "window": ValueAttr(window),
                "dst": AddressAttr(dst),
                "n": ValueAttr(n),
                "m": value_or_none(positions),
            }
        )

    def verify_(self) -> None:
        if (self.by_core is None) != (self.m is None):
            raise VerifyException("a read by_core has m windows, any other has one")


@irdl_op_definition
class AluOp(IsaOperation):
    """A digital function over ``m`` positions x ``n`` channels; names of functions are docs/isa.md's.

    ```mlir
    isa.alu "requantise" to #isa.at<"y"[0, 0]> from #isa.at<"acc"[0, 0]> and #isa.at<-1[0, "n0"]>
      n #isa.value<"n"> m #isa.value<56> record #isa.value<"requant">
    ```
    """

    name = "isa.alu"

    function = prop_def(StringAttr)
    dst = prop_def(AddressAttr)
    a = opt_prop_def(AddressAttr)
    b = opt_prop_def(AddressAttr)
    n = prop_def(ValueAttr)
    m = prop_def(ValueAttr)
    record = opt_prop_def(ValueAttr)
    assembly_format = (
        "$function `to` $dst (`from` $a^)? (`and` $b^)? `n` $n `m` $m (`record` $record^)? attr-dict"
    )

    def __init__(
        self,
        function: str,
        dst: Address,
        a: Address | None = None,
        b: Address | None = None,
        *,
        n: Value,
        m: Value = 1,
        record: Value | None = None,
    ):
        super().__init__(
            properties={
                "function": StringAttr(function),
                "dst": AddressAttr(dst),
                "a": address_or_none(a),
                "b": address_or_none(b),
                "n": ValueAttr(n),
                "m": ValueAttr(m),
                "record": value_or_none(record),
            }
        )


@irdl_op_definition
class CopyOp(IsaOperation):
    """Move elements within one memory by a pattern of extents and strides.

    ```mlir
    isa.copy to #isa.at<"whole"[0, 0]> from #isa.at<"x"[0, 0]> pattern #isa.value<"in">
    ```
    """

    name = "isa.copy"

    dst = prop_def(AddressAttr)
    source = prop_def(AddressAttr)
    pattern = prop_def(ValueAttr)
    assembly_format = "`to` $dst `from` $source `pattern` $pattern attr-dict"

    def __init__(self, dst: Address, source: Address, pattern: Value):
        super().__init__(
            properties={"dst": AddressAttr(dst), "source": AddressAttr(source), "pattern": ValueAttr(pattern)}
        )


Isa = Dialect(
    "isa",
    [
        BodyOp,
        LoopOp,
        WriteOp,
        WriteLocalOp,
        ReadOp,
        AluOp,
        CopyOp,
        SendOp,
        RecvOp,
        FreeOp,
        SignalOp,
        WaitOp,
        DmaOp,
        HostOp,
    ],
    [ValueAttr, AddressAttr],
)

ISA_LEVEL = Level(
    "isa",
    "level 4: bodies of instructions, one a stage and role; everything else is in tables",
    {
        ModuleOp: (),
        **{op: () for op in Isa.operations},
    },
)
