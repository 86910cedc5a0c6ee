"""One deliberate fault per pass: what is changed behind its back, and the operation that must be named."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, TensorType, i64
from xdsl.ir import SSAValue
from xdsl.rewriter import Rewriter

from cimc.dialects.cim import RequantiseOp, StageOp
from cimc.dialects.context import CimContext
from cimc.dialects.graph import ClipOp, DequantizeOp, QuantizeOp, QuantType, ReluOp, tensor_names
from cimc.dialects.graph_types import quant_of
from cimc.dialects.locations import short_name
from cimc.dialects.weights import WeightRefAttr
from cimc.passes.place.network import COLUMNS
from cimc.passes.schedule.array_product import coding_attr, coding_of
from cimc.runtime.program import Program

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Fault:
    """``plant`` damages what the pass ``after`` left; ``operation`` is what verify must name."""

    says: str
    after: str
    operation: str
    plant: Callable[[Any, CimContext], None]
    machine: str = "lossless"


def found(module: ModuleOp, kind: str, node: str) -> Any:
    """The operation of dialect name ``kind`` of the ONNX node ``node``."""
    return next(op for op in module.walk() if op.name == kind and short_name(op.location) == node)


def stage(module: ModuleOp, label: str) -> StageOp:
    """The stage called ``label``."""
    return next(op for op in module.walk() if isinstance(op, StageOp) and op.label.data == label)


def changed(ctx: CimContext, ref: WeightRefAttr, change: Callable[[Array], Array]) -> WeightRefAttr:
    """A reference to a changed copy of an array of the store."""
    array = np.array(ctx.store.array(ref.key.data))
    return WeightRefAttr.of(ctx.store.put(ctx.store.fresh("fault"), change(array).astype(array.dtype)))


def at(index: Any, value: Callable[[Any], Any]) -> Callable[[Array], Array]:
    """Change the elements at ``index`` only."""

    def change(array: Array) -> Array:
        array[index] = value(array[index])
        return array

    return change


def weights_of(kind: str, node: str, change: Callable[[Array], Array]) -> Callable[[Any, CimContext], None]:
    """Change the weights of a product."""

    def plant(module: ModuleOp, ctx: CimContext) -> None:
        op = found(module, kind, node)
        op.weight = changed(ctx, op.weight, change)

    return plant


def bias_of(kind: str, node: str, change: Callable[[Array], Array]) -> Callable[[Any, CimContext], None]:
    """Change the bias of a product."""

    def plant(module: ModuleOp, ctx: CimContext) -> None:
        op = found(module, kind, node)
        op.bias = changed(ctx, op.bias, change)

    return plant


def narrow_scale(module: ModuleOp, ctx: CimContext) -> None:
    """A quarter of the scale on one edge: most of its range saturates."""
    quantize = next(
        op for op in module.walk() if isinstance(op, QuantizeOp) and tensor_names(op) == ("conv3_out",)
    )
    kind = quant_of(quantize.result)
    assert kind is not None
    narrow = QuantType.of(kind.bits, kind.signed, kind.scale / 4, kind.zero_point)
    retype(quantize.result, narrow)
    assert all(isinstance(use.operation, DequantizeOp) for use in quantize.result.uses)


def retype(value: SSAValue, kind: QuantType) -> None:
    """Give codes another meaning."""
    assert isinstance(value.type, TensorType)
    Rewriter.replace_value_with_new_type(value, TensorType(kind, value.type.get_shape()))


def clamp(kind: str, node: str, low: int, high: int) -> Callable[[Any, CimContext], None]:
    """Other clamps on the operation of a node."""

    def plant(module: ModuleOp, ctx: CimContext) -> None:
        op = found(module, kind, node)
        op.lo, op.hi = IntegerAttr(low, i64), IntegerAttr(high, i64)

    return plant


def forget_clip(module: ModuleOp, ctx: CimContext) -> None:
    """The clamp of a fused Clip is the whole range again."""
    op = found(module, "graph.conv", "conv4")
    assert not any(isinstance(o, ClipOp | ReluOp) for o in module.walk())
    op.lo, op.hi = IntegerAttr(0, i64), IntegerAttr(255, i64)


def matrix_rows(module: ModuleOp, ctx: CimContext) -> None:
    """Rows of a weight matrix in the order (channel, kernel row, kernel column)."""
    write = stage(module, "conv2").write
    assert write is not None
    write.weight = changed(
        ctx, write.weight, lambda w: w.reshape(3, 3, 8, -1).transpose(2, 0, 1, 3).reshape(w.shape)
    )


def requantise_of(module: ModuleOp, label: str) -> RequantiseOp:
    """The requantisation of a stage."""
    return next(op for op in stage(module, label).body.block.ops if isinstance(op, RequantiseOp))


def constant_of(label: str, change: Callable[[Array], Array]) -> Callable[[Any, CimContext], None]:
    """Change the constants of a tail."""

    def plant(module: ModuleOp, ctx: CimContext) -> None:
        op = requantise_of(module, label)
        op.constant = changed(ctx, op.constant, change)

    return plant


def coarse_steps(module: ModuleOp, ctx: CimContext) -> None:
    """A converter that loses nothing gets steps of 2."""
    read, write = stage(module, "conv2").read, stage(module, "conv2").write
    assert read is not None
    assert write is not None
    coding = coding_of(write.coding)
    steps = np.full((coding.digit_cycles, len(coding.conversions)), 2, np.int64)
    read.steps = WeightRefAttr.of(ctx.store.put("fault.steps", steps))


def finer_unit(module: ModuleOp, ctx: CimContext) -> None:
    """Steps in another unit than the tail's multiplier expects."""
    write = stage(module, "conv2").write
    assert write is not None
    coding = coding_of(write.coding)
    write.coding = coding_attr(replace(coding, frac_bits=coding.frac_bits - 1 if coding.frac_bits else 1))


def copies(label: str, number: int) -> Callable[[Any, CimContext], None]:
    """Another number of copies."""

    def plant(module: ModuleOp, ctx: CimContext) -> None:
        stage(module, label).copies = IntegerAttr(number, i64)

    return plant


def table(label: str, change: Callable[[Array], Array]) -> Callable[[Any, CimContext], None]:
    """Change the placement table of a stage."""

    def plant(module: ModuleOp, ctx: CimContext) -> None:
        op = stage(module, label)
        assert op.placement is not None
        op.placement = changed(ctx, op.placement, change)

    return plant


def column(name: str) -> int:
    """Number of a column of the placement table."""
    return COLUMNS.index(name)


def same_crossbar(module: ModuleOp, ctx: CimContext) -> None:
    """The first context of conv3 stands on the crossbars of the first of conv2."""
    holder = stage(module, "conv2").placement
    assert holder is not None
    place = ctx.store.array(holder.key.data)[0, [column("phase"), column("core"), column("xbar")]]
    where = (0, [column("phase"), column("core"), column("xbar")])
    table("conv3", at(where, lambda old: place))(module, ctx)


def context_of(program: Program, node: str) -> int:
    """The first context of the stage ``node``."""
    nodes = program["contexts"]["node"].tolist()
    return next(i for i, n in enumerate(nodes) if program.name_of(n) == node)


def shifted_route(program: Program, ctx: CimContext) -> None:
    """A part of a row that pool2 sends to fc1 lands one channel further."""
    buffers = program["buffers"]
    context = context_of(program, "fc1")
    rings = [i for i, c in enumerate(buffers["context"].tolist()) if c == context]
    routes = program["routes"]
    row = next(i for i, b in enumerate(routes["ring"].tolist()) if b in rings)
    routes["dst_chan"][row] += 1


def wrong_multiplier(program: Program, ctx: CimContext) -> None:
    """The first channel of conv2 is scaled by half as much again."""
    wanted = ctx.store.array("conv2.multiplier")
    values = program["const_f"]["value"]
    span = len(wanted)
    first = next(i for i in range(len(values)) if np.array_equal(values[i : i + span], wanted))
    values[first] *= np.float32(1.5)


def wrong_row_step(program: Program, ctx: CimContext) -> None:
    """A window over rows that are one apart takes every second position instead."""
    steps = program["windows"]["col_step"]
    number = next(i for i, k in enumerate(program["windows"]["kw"].tolist()) if k == 3)
    steps[number] += 1


def negated(array: Array) -> Array:
    """The negative."""
    return -array


def transposed_kernel(array: Array) -> Array:
    """Kernel rows and columns swapped."""
    return array.transpose(0, 1, 3, 2)


_FC1_COLUMN = weights_of("graph.gemm", "fc1", at((slice(None), 5), negated))
_ONE_WEIGHT = weights_of("graph.conv", "conv4", at((1, 2, 0, 1), lambda w: w + 2 if w < 100 else w - 2))
_ONE_BIAS = bias_of("graph.conv", "conv1", at(3, lambda b: b + 0.01))
_HALF_CONSTANT = constant_of("conv1", lambda c: c // 2)
_SHORT_BLOCK = table("conv2", at((0, column("k1")), lambda k: k - 1))
_XBARS = table("conv4", at((0, column("xbars")), lambda x: x + 1))
_NO_CORE = table("conv5", at((0, column("core")), lambda c: 5000))

FAULTS = (
    Fault("imported weights transposed", "import", "conv2", weights_of("graph.conv", "conv2", transposed_kernel)),
    Fault("bias negated", "graph-hoist-pointwise", "conv3", bias_of("graph.conv", "conv3", lambda b: -b)),
    Fault("bias folded wrongly", "graph-fold-batch-norm", "conv1", _ONE_BIAS),
    Fault("weights of one column negated", "graph-canonicalise", "fc1", _FC1_COLUMN),
    Fault("kernel transposed", "graph-compose-moves", "conv4", weights_of("graph.conv", "conv4", transposed_kernel)),
    Fault("kernel transposed", "graph-keep-off-arrays", "conv2", weights_of("graph.conv", "conv2", transposed_kernel)),
    Fault("bias negated", "graph-choose-products", "conv3", bias_of("graph.conv", "conv3", lambda b: -b)),
    Fault("scale a quarter", "quantise-activations", "conv3", narrow_scale),
    Fault("pool clamps its codes", "quantise-pass-through", "pool1", clamp("graph.max_pool", "pool1", 60, 255)),
    Fault("one weight two steps off", "quantise-products", "conv4", _ONE_WEIGHT),
    Fault("one bias two steps off", "quantise-products", "fc2", bias_of("graph.gemm", "fc2", at(7, lambda b: b + 2))),
    Fault("sum clamped", "quantise-digital", "add1", clamp("graph.add", "add1", 0, 90)),
    Fault("fused Clip forgotten", "fuse-activations", "conv4", forget_clip),
    Fault("matrix rows in another order", "map-stages", "conv2", matrix_rows),
    Fault("one constant off", "map-stages", "fc1", constant_of("fc1", at(2, lambda c: c + 4000))),
    Fault("steps where none are needed", "calibrate-converters", "conv2", coarse_steps),
    Fault("steps in another unit", "calibrate-converters", "conv2", finer_unit, "lossy"),
    Fault("constant not in the unit of the steps", "calibrate-converters", "conv1", _HALF_CONSTANT, "lossy"),
    Fault("one constant off", "spread-rows", "fc2", constant_of("fc2", at(2, lambda c: c + 4000))),
    Fault("a copy without a row", "assign-copies", "fc1", copies("fc1", 2)),
    Fault("a copy without a row", "copy-digital", "fc1", copies("fc1", 2)),
    Fault("block edge off by one", "partition-stages", "conv2", _SHORT_BLOCK),
    Fault("columns held twice", "partition-stages", "conv1", table("conv1", lambda t: np.concatenate([t, t[:1]]))),
    Fault("copies changed after the cut", "partition-stages", "conv4", copies("conv4", 2), "lossy"),
    Fault("crossbars miscounted", "segment-stages", "conv4", _XBARS),
    Fault("two contexts on one crossbar", "place-contexts", "conv3", same_crossbar),
    Fault("core that does not exist", "place-contexts", "conv5", _NO_CORE, "lossy"),
    Fault("route rectangle shifted", "lower-bodies", "pool2", shifted_route),
    Fault("wrong multiplier", "lower-bodies", "conv2", wrong_multiplier),
    Fault("wrong window step", "lower-bodies", "conv1", wrong_row_step, "lossy"),
)  # fmt: skip
