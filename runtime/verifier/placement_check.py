"""Checks of who stands where: contexts on cores, buffers in memories, owners of buffers (P020 to P031)."""

from __future__ import annotations

from collections import Counter, defaultdict

from cimc.runtime.program.opcodes import READS, WRITES, BufferKind, Element, Opcode
from cimc.runtime.program.tables import NONE
from cimc.runtime.verifier.code import Decoded, Step
from cimc.runtime.verifier.operands import Tables, buffers_of
from cimc.runtime.verifier.tables_check import Machine

_ARRAYS = READS | WRITES


def check_placement(decoded: Decoded, tables: Tables, machine: Machine) -> None:
    """Report contexts, buffers and sets in the wrong place."""
    _check_contexts(decoded, machine)
    _check_memories(decoded, tables, machine)
    _check_owners(decoded, tables)


def _check_contexts(decoded: Decoded, machine: Machine) -> None:
    columns = {name: column.tolist() for name, column in decoded.program["contexts"].items()}
    per_core: Counter[tuple[int, int]] = Counter()
    seen: set[tuple[int, int]] = set()
    for context, (core, stream, phase) in enumerate(
        zip(columns["core"], columns["stream"], columns["phase"], strict=True)
    ):
        node = decoded.node_of(context)
        if not NONE <= core < machine.cores:
            decoded.report("P020", f"context {context} is on core {core} of {machine.cores}", node=node)
        if (stream, phase) in seen:
            decoded.report("P022", f"two contexts of stream {stream} in phase {phase}", node=node)
        seen.add((stream, phase))
        if columns["stream"][stream] != stream or columns["core"][stream] != core:
            decoded.report(
                "P022",
                f"context {context} (core {core}) continues stream {stream}, whose first context is"
                f" {columns['stream'][stream]} on core {columns['core'][stream]}",
                node=node,
            )
        if core == NONE:
            continue
        per_core[core, phase] += 1
        if per_core[core, phase] == machine.contexts + 1:
            decoded.report(
                "P021",
                f"core {core} runs more than its {machine.contexts} contexts in phase {phase};"
                " place the stage elsewhere",
                node=node,
            )


def _check_memories(decoded: Decoded, tables: Tables, machine: Machine) -> None:
    columns = tables.buffers
    by_core: dict[int, list[int]] = defaultdict(list)
    for buffer, core in enumerate(columns["core"]):
        if not NONE <= core < machine.cores:
            decoded.report(
                "P020",
                f"buffer {buffer} is on core {core} of {machine.cores}",
                node=decoded.buffer_node(buffer),
            )
            continue
        by_core[core].append(buffer)
    for core, buffers in sorted(by_core.items()):
        size = machine.global_buffer_bytes if core == NONE else machine.local_buffer_bytes
        memory = "the global buffer" if core == NONE else f"the local buffer of core {core}"
        live: list[tuple[int, int]] = []
        for buffer in sorted(buffers, key=lambda b: (columns["base"][b], b)):
            base, end = columns["base"][buffer], _end(columns, buffer)
            if end > size:
                decoded.report(
                    "P030",
                    f"buffer {buffer} takes bytes {base} … {end - 1} of {memory}, which has {size}",
                    node=decoded.buffer_node(buffer),
                )
            live = [(other, stop) for other, stop in live if stop > base]
            for other, _ in live:
                if (
                    columns["phase_first"][other] <= columns["phase_last"][buffer]
                    and columns["phase_first"][buffer] <= columns["phase_last"][other]
                ):
                    decoded.report(
                        "P031",
                        f"buffer {buffer} at byte {base} of {memory} overlaps buffer {other}, bytes"
                        f" {columns['base'][other]} … {_end(columns, other) - 1}",
                        node=decoded.buffer_node(buffer),
                    )
            live.append((buffer, end))


def _end(columns: dict[str, list[int]], buffer: int) -> int:
    elements = columns["slots"][buffer] * columns["pitch"][buffer]
    return columns["base"][buffer] + elements * Element(columns["element"][buffer]).size_bytes


def _check_owners(decoded: Decoded, tables: Tables) -> None:
    program = decoded.program
    contexts = {name: column.tolist() for name, column in program["contexts"].items()}
    sets = {name: column.tolist() for name, column in program["array_sets"].items()}
    users: dict[int, int] = {}
    """The stream of a buffer: its owner's, or that of its first user."""
    for buffer, owner in enumerate(tables.buffers["context"]):
        if owner != NONE:
            users[buffer] = contexts["stream"][owner]
            if contexts["core"][owner] != tables.buffers["core"][buffer]:
                decoded.report(
                    "P020",
                    f"buffer {buffer} on core {tables.buffers['core'][buffer]} belongs to context {owner} on"
                    f" core {contexts['core'][owner]}",
                    node=decoded.node_of(owner),
                )
    for number, (owner, core) in enumerate(zip(sets["context"], sets["core"], strict=True)):
        if contexts["core"][owner] != core or core == NONE:
            decoded.report(
                "P020",
                f"array set {number} on core {core} belongs to context {owner} on core {contexts['core'][owner]}",
                node=decoded.node_of(owner),
            )
    for step in decoded.all():
        stream = contexts["stream"][step.context]
        for buffer in _used(decoded, step):
            _check_use(decoded, tables, step, buffer)
            if tables.buffers["kind"][buffer] not in (BufferKind.LOCAL, BufferKind.RING):
                continue
            owner = users.setdefault(buffer, stream)
            if owner != stream:
                decoded.report("P023", f"uses buffer {buffer}, which belongs to context {owner}", step)
        if step.row.opcode not in _ARRAYS:
            continue
        xb = step.row.xb
        phase = contexts["phase"][step.context]
        if contexts["stream"][sets["context"][xb]] != stream or sets["phase"][xb] != phase:
            decoded.report(
                "P025",
                f"uses array set {xb} of context {sets['context'][xb]} in phase {sets['phase'][xb]}; this is"
                f" phase {phase}",
                step,
            )


def _used(decoded: Decoded, step: Step) -> list[int]:
    if step.row.opcode == Opcode.HOST:
        host = decoded.program.hosts[step.row.imm]
        return [*host.inputs, *host.outputs]
    return [buffer for _, buffer in buffers_of(step)]


def _check_use(decoded: Decoded, tables: Tables, step: Step, buffer: int) -> None:
    contexts = decoded.program["contexts"]
    core, phase = int(contexts["core"][step.context]), int(contexts["phase"][step.context])
    columns = tables.buffers
    if columns["core"][buffer] != core:
        decoded.report(
            "P024",
            f"uses buffer {buffer} of core {columns['core'][buffer]}; the context is on core {core}",
            step,
        )
    if not columns["phase_first"][buffer] <= phase <= columns["phase_last"][buffer]:
        decoded.report(
            "P024",
            f"uses buffer {buffer} in phase {phase}; it lives in phases {columns['phase_first'][buffer]} …"
            f" {columns['phase_last'][buffer]}",
            step,
        )
