"""Level 3 to level 4 and the program: bodies per stage and role, tables for everything that differs."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr
from xdsl.ir import Operation, SSAValue

from cimc.dialects.cim import StageOp
from cimc.dialects.context import CimContext
from cimc.dialects.graph_types import shape_of
from cimc.dialects.isa import BodyOp
from cimc.dialects.mem import HostCallOp, InputOp, OutputOp, RelayoutOp
from cimc.dialects.mem_real import IndexMapOp, MatmulOp
from cimc.passes.lower.array_sets import StageArrays, add_frame_arrays
from cimc.passes.lower.bodies import BodyMaker, is_whole, used_parameters
from cimc.passes.lower.chip_bodies import (
    ChipBody,
    host_body,
    input_body,
    io_tensor,
    output_body,
    relayout_body,
)
from cimc.passes.lower.emit import body_rows
from cimc.passes.lower.memory_map import MemoryMap
from cimc.passes.lower.phase_bodies import add_barriers, ordered, spill_ops
from cimc.passes.lower.real_bodies import index_map_body, matmul_body
from cimc.passes.lower.stage_scalars import StageScalars
from cimc.passes.lower.write_order import Order, write_order
from cimc.passes.place.network import CHIP, PARTIAL, ContextSpec, Network, Node, Spill
from cimc.passes.place.tail_plan import ACC, TailPlan, element_of
from cimc.runtime.program import BufferKind, Element, HostOperator, Program
from cimc.runtime.program.builder import ProgramBuilder, Route
from cimc.runtime.program.geometry import ring_geometry


@dataclass(frozen=True)
class Linked:
    """The instruction level of a program and the program itself."""

    module: ModuleOp
    program: Program
    ring_buffers: npt.NDArray[np.int64]
    """Buffer number of every ring of the network."""
    matrices: tuple[str, ...]
    """Keys of the weight matrices in the store, in the order of the weight image."""
    host_models: tuple[str, ...]
    """Keys of the host operators' models in the store."""
    global_bytes: int
    """Of the global buffer, up to the end of the last buffer of any phase."""


def link(
    network: Network, slots: npt.NDArray[np.int64], ctx: CimContext, *, frames: int = 1, total_macs: int = 0
) -> Linked:
    """Write a network with ``slots`` per ring as bodies and tables.

    ``frames``: frames of one call of the model; spills between phases hold as many.
    """
    return _Linker(network, slots, ctx, frames).run(total_macs)


@dataclass
class _Linker:
    network: Network
    slots: npt.NDArray[np.int64]
    ctx: CimContext
    frames: int
    builder: ProgramBuilder = field(default_factory=ProgramBuilder)
    memory: MemoryMap = field(default_factory=MemoryMap)
    bodies: list[Operation] = field(default_factory=list[Operation])
    seen: dict[tuple[Any, ...], tuple[int, list[str]]] = field(
        default_factory=dict[tuple[Any, ...], tuple[int, list[str]]]
    )
    values: dict[int, dict[str, int]] = field(default_factory=dict[int, dict[str, int]])
    used: dict[int, list[str]] = field(default_factory=dict[int, list[str]])
    code: dict[int, int] = field(default_factory=dict[int, int])
    """Body of every context."""
    ring_buffers: list[int] = field(default_factory=list[int])
    host_models: list[str] = field(default_factory=list[str])

    def run(self, total_macs: int) -> Linked:
        """Bodies first, then contexts in order, then rings, buffers and routes, which name contexts."""
        for index, node in enumerate(self.network.nodes):
            if node.spill is not None:
                self._spill(node, node.spill)
            elif node.stage is not None:
                self._stage(index, node, node.stage)
            else:
                self._chip(index, node)
        for number, spec in enumerate(self.network.contexts):
            node = self.network.nodes[spec.node]
            self.builder.add_context(
                spec.core,
                self.code[number],
                node=self.builder.name(node.label),
                phase=spec.phase,
                stream=self.orders[number].stream,
            )
        self._rings()
        if self.phases > 1:
            contexts = self.network.contexts
            self.bodies.append(add_barriers(contexts, self.orders, self.values, self.builder))
        for number, spec in enumerate(self.network.contexts):
            self._routes(number, spec)
            self.builder.set_params(number, [self.values[number][p] for p in self.used[number]])
        program = self.builder.build(self._machine(), frames=self.frames, total_macs=total_macs)
        return Linked(
            ModuleOp(self.bodies),
            program,
            np.array(self.ring_buffers, np.int64),
            program.weights,
            tuple(self.host_models),
            self.memory.end(CHIP),
        )

    def _machine(self) -> dict[str, Any]:
        assert self.ctx.arch is not None
        return self.ctx.arch.model_dump(mode="json")

    def _ordered(self, ops: list[Operation], number: int) -> list[Operation]:
        """A context's instructions between the events that keep phases apart."""
        waits, signals = self._edges(number)[:2]
        return ordered(ops, self.orders[number], waits=waits, signals=signals)

    def _edges(self, number: int) -> tuple[bool, ...]:
        """Whether a context waits at its start and signals at its end, and how it writes: part of a body's key."""
        phase = self.network.contexts[number].phase
        return phase > 0, phase < self.phases - 1, *self.orders[number].flags

    @cached_property
    def orders(self) -> list[Order]:
        """When every context writes."""
        assert self.ctx.arch is not None
        return write_order(self.network.contexts, self.ctx.arch.core.contexts)

    @cached_property
    def phases(self) -> int:
        """Phases of the network, which does not change while it is linked."""
        return self.network.phases

    def _body(
        self, key: tuple[Any, ...], label: str, node: Node, ops: list[Operation]
    ) -> tuple[int, list[str]]:
        params = used_parameters(ops)
        body = BodyOp(label, node.label, params, ops)
        body.location = node.op.location
        self.bodies.append(body)
        rows = body_rows(body, self.builder)
        self.seen[key] = (self.builder.add_body(label, rows), params)
        return self.seen[key]

    def _use_body(self, number: int, body: tuple[int, list[str]]) -> None:
        self.code[number], self.used[number] = body
        self.values[number] = {}

    def _buffer(
        self,
        number: int,
        element: Element,
        slots: int,
        pitch: int,
        channels: int,
        *,
        kind: BufferKind = BufferKind.LOCAL,
        last_phase: int | None = None,
    ) -> int:
        """A buffer of context ``number``, alive in its phase, or until ``last_phase``."""
        spec = self.network.contexts[number]
        phases = (spec.phase, spec.phase if last_phase is None else last_phase)
        base = self.memory.take(spec.core, slots * pitch * element.size_bytes, phases)
        return self.builder.add_buffer(
            spec.core,
            element,
            slots,
            pitch,
            channels=channels,
            kind=kind,
            context=number,
            base=base,
            phases=phases,
        )

    def _spill(self, node: Node, spill: Spill) -> None:
        """The buffer of a spill, the context that fills it and those that send from it."""
        last = max(spill.readers)
        buffer = self._buffer(
            spill.writer,
            spill.element,
            self.frames,
            spill.pitch,
            spill.channels,
            kind=BufferKind.WHOLE,
            last_phase=last,
        )
        row = spill.positions * spill.channels
        geometry = ring_geometry(1, 1, 1, 0, spill.rows, spill.rows, spill.copy, spill.copies)
        common = {"spill": buffer, "turns": geometry.turns, "copy": spill.copy, "base": spill.copy * row}
        for number in node.contexts:
            spec = self.network.contexts[number]
            key = (
                "spill",
                id(node.op),
                spec.role,
                row,
                spill.channels,
                spill.copies,
                *self._edges(number),
            )
            if key not in self.seen:
                ops = spill_ops(spec.role, spill, self.builder)
                label = f"{node.label}.{spec.role}.{len(self.seen)}"
                self._body(key, label, node, self._ordered(ops, number))
            self._use_body(number, self.seen[key])
            self.values[number] |= common

    def _stage(self, index: int, node: Node, stage: StageOp) -> None:
        assert node.tail is not None
        tap = self._tap(stage, 0, stage.result, stage.frame.data)
        maker = BodyMaker(node, stage, self.ctx, self.builder, tap, self.phases > 1)
        scalars = StageScalars(stage, self.ctx.arch)
        arrays = StageArrays(self.builder, self.ctx, stage) if stage.read is not None else None
        for number in node.contexts:
            spec = self.network.contexts[number]
            psums = sum(name.startswith("psum") for name in spec.rings)
            whole, channels = is_whole(spec, stage), spec.n1 - spec.n0
            # A digital stage's body has the widths of its pieces in it.
            cut = tuple(b - a for a, b in spec.pieces) if arrays is None else len(spec.pieces)
            key = (
                index,
                spec.role,
                channels,
                whole,
                cut,
                psums,
                spec.holds,
                spec.stays,
                *self._edges(number),
            )
            if key not in self.seen:
                label = f"{node.label}.{spec.role}.{channels}" + ("" if whole else ".block")
                self._body(key, label, node, self._ordered(maker.ops(spec), number))
            self._use_body(number, self.seen[key])
            values = self.values[number]
            values |= scalars.of(spec, self.network.rings[spec.rings["in0"]])
            values |= self._row_buffers(number, spec, node.tail)
            product = stage.frame_product
            if product is not None and product.coding is not None:
                values |= add_frame_arrays(self.builder, self.ctx, number, spec, product)
            if arrays is not None:
                values |= arrays.add(number, spec)

    def _row_buffers(self, number: int, spec: ContextSpec, tail: TailPlan) -> dict[str, int]:
        """The buffers of a stage's context other than rings."""
        n, positions = spec.n1 - spec.n0, max(b - a for a, b in spec.pieces)
        return {
            buffer.name: self._buffer(number, buffer.element, buffer.slots, buffer.pitch(n, positions), n)
            for buffer in tail.buffers
            if spec.role != PARTIAL or buffer.name == ACC
        }

    def _chip(self, index: int, node: Node) -> None:
        spec = self.network.contexts[node.contexts[0]]
        body = self._chip_body(node.op, spec.copies)
        ops = self._ordered(body.ops, node.contexts[0])
        code = self._body((index,), f"{node.label}.chip", node, ops)
        for number in node.contexts:
            copy = self.network.contexts[number].copy
            self._use_body(number, code)
            self.values[number] |= {"copy": copy}
            if isinstance(node.op, InputOp):
                self.values[number]["turns"] = ceil((shape_of(node.op.result)[0] - copy) / spec.copies)
            for buffer in body.buffers:
                self.values[number][buffer.name] = self._buffer(
                    number, buffer.element, buffer.slots, buffer.pitch, buffer.channels, kind=buffer.kind
                )
        if isinstance(node.op, HostCallOp):
            self._host_operator(node.op, node.contexts[0])

    def _chip_body(self, op: Operation, copies: int) -> ChipBody:
        match op:
            case InputOp():
                return input_body(op, copies, self.builder, self._tap(op, 0, op.result, op.frame.data))
            case OutputOp():
                return output_body(op, self.builder)
            case RelayoutOp():
                tap = self._tap(op, 0, op.result, op.target.data)
                return relayout_body(op, self.builder, tap)
            case IndexMapOp():
                tap = self._tap(op, 0, op.result, op.target.data)
                return index_map_body(op, self.ctx, self.builder, tap)
            case MatmulOp():
                return matmul_body(op, self.builder, self._tap(op, 0, op.result, op.target.data))
            case HostCallOp():
                taps = [
                    self._tap(op, i, value, shape[1:] if len(shape) > 1 and shape[0] == 1 else shape)
                    for i, (value, shape) in enumerate(zip(op.outs, op.target_shapes, strict=True))
                ]
                return host_body(op, len(self.host_models), self.builder, taps)
            case _:
                raise TypeError(f"{op.name} runs in no context of its own")

    def _host_operator(self, op: HostCallOp, number: int) -> None:
        values = self.values[number]
        key = op.model.key.data
        count = len(self.host_models)
        sub_model = _names_of(self.ctx.store.array(key).tobytes())
        self.builder.add_host(
            HostOperator(
                op_type=op.op_type.data,
                model=f"{count:03d}.onnx",
                inputs=tuple(values[f"whole{i}"] for i in range(len(op.args))),
                outputs=tuple(values[f"result{i}"] for i in range(len(op.outs))),
                input_names=sub_model[0],
                output_names=sub_model[1],
                input_shapes=tuple(op.source_shapes),
                output_shapes=tuple(op.target_shapes),
                flops=sum(int(np.prod(s)) for s in op.target_shapes),
            )
        )
        self.host_models.append(key)

    def _tap(self, op: Operation, number: int, value: SSAValue, frame: tuple[int, ...]) -> int:
        tensors = op.properties.get("tensors")
        if not isinstance(tensors, ArrayAttr) or number >= len(tensors.data):
            return -1
        name = tensors.data[number]
        assert isinstance(name, StringAttr)
        layout = op.layout if isinstance(op, StageOp) else None
        return self.builder.add_tap(io_tensor(name.data, "tap", value, frame, element_of(value.type), layout))

    def _rings(self) -> None:
        for ring, slots in zip(self.network.rings, self.slots, strict=True):
            spec = self.network.contexts[ring.context]
            phases = (spec.phase, spec.phase)
            base = self.memory.take(spec.core, int(slots) * ring.slot_bytes, phases)
            number = self.builder.add_ring(
                spec.core,
                ring.element,
                int(slots),
                ring.pitch,
                ring.geometry,
                channels=ring.channels,
                fill=ring.fill,
                pad=ring.pad,
                context=ring.context,
                base=base,
                phases=phases,
            )
            self.ring_buffers.append(number)
            g = ring.geometry
            self.values[ring.context] |= {
                ring.name: number,
                f"advance_{ring.name}": g.advance,
                f"hold_{ring.name}": g.window - g.advance,
            }

    def _routes(self, number: int, spec: ContextSpec) -> None:
        for result, targets in enumerate(spec.targets):
            groups: dict[tuple[int, int, int, int], int] = {}
            routes: list[Route] = []
            for t in targets:
                source = (t.src_pos, t.src_chan, t.positions, t.channels)
                group = groups.setdefault(source, len(groups))
                routes.append(Route(self.ring_buffers[t.ring], group, *source, t.dst_pos, t.dst_chan))
            self.values[number][f"routes{result}"] = self.builder.add_route_set(routes)


def _names_of(model: bytes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the inputs and outputs of a one-node ONNX model, in order."""
    import onnx

    graph = onnx.load_model_from_string(model).graph
    return tuple(v.name for v in graph.input), tuple(v.name for v in graph.output)
