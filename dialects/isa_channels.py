"""Instructions that move rows between contexts and to the host, and those that wait for each other."""

from __future__ import annotations

from xdsl.dialects.builtin import I64, IntegerAttr, UnitAttr, i64
from xdsl.irdl import irdl_op_definition, opt_prop_def, prop_def

from cimc.dialects.isa_values import Address, AddressAttr, IsaOperation, Value, ValueAttr


@irdl_op_definition
class SendOp(IsaOperation):
    """Send a row of ``m`` positions x ``n`` channels by a route set; ``row`` gives its number in the image.

    ```mlir
    isa.send #isa.at<"y"[0, 0]> n #isa.value<"n"> m #isa.value<56> row #isa.at<-1["copy", 0] rows [0, 2]>
      routes #isa.value<"routes"> tap #isa.value<0> #isa.value<"p0"> #isa.value<"n0">
    ```
    """

    name = "isa.send"

    source = prop_def(AddressAttr)
    n = prop_def(ValueAttr)
    m = prop_def(ValueAttr)
    row = prop_def(AddressAttr)
    routes = prop_def(ValueAttr)
    tap = prop_def(ValueAttr)
    tap_position = prop_def(ValueAttr)
    tap_channel = prop_def(ValueAttr)
    assembly_format = (
        "$source `n` $n `m` $m `row` $row `routes` $routes `tap` $tap $tap_position $tap_channel attr-dict"
    )

    def __init__(
        self,
        source: Address,
        row: Address,
        routes: Value,
        *,
        n: Value,
        m: Value,
        tap: Value = -1,
        tap_position: Value = 0,
        tap_channel: Value = 0,
    ):
        super().__init__(
            properties={
                "source": AddressAttr(source),
                "n": ValueAttr(n),
                "m": ValueAttr(m),
                "row": AddressAttr(row),
                "routes": ValueAttr(routes),
                "tap": ValueAttr(tap),
                "tap_position": ValueAttr(tap_position),
                "tap_channel": ValueAttr(tap_channel),
            }
        )


class _RingOp(IsaOperation):
    """Shared fields of ``recv`` and ``free``."""

    ring = prop_def(ValueAttr)
    n = prop_def(ValueAttr)
    assembly_format = "$ring $n attr-dict"

    def __init__(self, ring: Value, n: Value):
        super().__init__(properties={"ring": ValueAttr(ring), "n": ValueAttr(n)})


@irdl_op_definition
class RecvOp(_RingOp):
    """Wait until the next ``n`` places of a ring are full.

    ```mlir
    isa.recv #isa.value<"x"> #isa.value<"advance">
    ```
    """

    name = "isa.recv"


@irdl_op_definition
class FreeOp(_RingOp):
    """Give back the ``n`` oldest places held.

    ```mlir
    isa.free #isa.value<"x"> #isa.value<"advance">
    ```
    """

    name = "isa.free"


class _EventOp(IsaOperation):
    """Shared fields of ``signal`` and ``wait``."""

    event = prop_def(ValueAttr)
    n = prop_def(ValueAttr)
    assembly_format = "$event $n attr-dict"

    def __init__(self, event: Value, n: Value):
        super().__init__(properties={"event": ValueAttr(event), "n": ValueAttr(n)})


@irdl_op_definition
class SignalOp(_EventOp):
    """Add ``n`` to the count of an event.

    ```mlir
    isa.signal <"done"> <1>
    ```
    """

    name = "isa.signal"


@irdl_op_definition
class WaitOp(_EventOp):
    """Wait until the count of an event is at least ``n``, then subtract it.

    ```mlir
    isa.wait <"go"> <1>
    ```
    """

    name = "isa.wait"


@irdl_op_definition
class DmaOp(IsaOperation):
    """A row between the host and the global buffer; ``out`` is from the chip.

    ```mlir
    isa.dma #isa.value<0> row #isa.at<-1[0, 0] rows [0, 1]> buffer #isa.at<"in"[0, 0]> n #isa.value<3> m #isa.value<224>
    ```
    """

    name = "isa.dma"

    port = prop_def(ValueAttr)
    row = prop_def(AddressAttr)
    buffer = prop_def(AddressAttr)
    n = prop_def(ValueAttr)
    m = prop_def(ValueAttr)
    out = opt_prop_def(UnitAttr)
    assembly_format = "$port `row` $row `buffer` $buffer `n` $n `m` $m (`out` $out^)? attr-dict"

    def __init__(self, port: Value, row: Address, buffer: Address, *, n: Value, m: Value, out: bool):
        super().__init__(
            properties={
                "port": ValueAttr(port),
                "row": AddressAttr(row),
                "buffer": AddressAttr(buffer),
                "n": ValueAttr(n),
                "m": ValueAttr(m),
                "out": UnitAttr() if out else None,
            }
        )


@irdl_op_definition
class HostOp(IsaOperation):
    """Run a host operator on whole buffers of the global buffer.

    ```mlir
    isa.host 0
    ```
    """

    name = "isa.host"

    operator = prop_def(IntegerAttr[I64])
    assembly_format = "$operator attr-dict"

    def __init__(self, operator: int):
        super().__init__(properties={"operator": IntegerAttr(operator, i64)})
