"""How fast the cycle engine is: executed instructions a second, compiling and preparing apart.

    .venv/bin/python tools/bench_cycle.py                          # a synthetic pipeline of 2,000 contexts
    .venv/bin/python tools/bench_cycle.py out/resnet-18.cim        # the program of an artifact, or its folder

An instruction counts as issued once in the expanded loops, without loop, end, halt and wait; a read is one
window of one context.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.cycle import Timing, simulate
from cimc.runtime.program import AluFunction, Element, Program, parameter
from cimc.runtime.program import rows as r
from cimc.runtime.program.builder import ProgramBuilder, Route, Tile
from cimc.runtime.program.files import load_program
from cimc.runtime.program.geometry import ring_geometry
from cimc.runtime.program.rows import At

MACHINE: dict[str, Any] = {
    "clock_ghz": 1.0,
    "static_power_mw": 0.0,
    "chip": {
        "cores": 1024,
        "global_buffer_bytes_per_cycle": 64.0,
        "global_buffer_latency_cycles": 5,
        "global_buffer_energy_pj_per_byte": 2.0,
    },
    "core": {
        "local_buffer_bytes_per_cycle": 64.0,
        "local_buffer_energy_pj_per_byte": 0.5,
        "digital_unit": {
            "lanes": 64,
            "startup_cycles": 1,
            "energy_pj_per_element": {"default": 1.0},
            "cycles_per_element": {"default": 1.0},
        },
    },
    "crossbar": {
        "parallel_rows": 128,
        "adcs": 128,
        "shift_add": "periphery",
        "read_latency_ns": 1.0,
        "conversion_cycles": 0,
        "read_energy_pj": 1.0,
        "dac_energy_pj": 0.1,
        "conversion_energy_pj": 0.1,
        "write_latency_ns": 10.0,
        "write_energy_pj_per_cell": 1.0,
    },
    "network": {
        "kind": "mesh",
        "columns": 32,
        "rows": 32,
        "link_bytes_per_cycle": 64.0,
        "hop_cycles": 1,
        "energy_pj_per_byte_hop": 0.1,
        "global_buffer_node": 0,
    },
}
"""Reads of 8 cycles, so that the contexts are in each other's way as often as possible."""


def synthetic(contexts: int, rows: int, columns: int) -> Program:
    """``contexts`` stages in a line, two to a core: 3x3 windows, ``columns`` reads a row, a tail, a send."""
    b = ProgramBuilder()
    coding = b.add_coding(Coding().to_row().tolist())
    window = b.add_window(kh=3, kw=3, col_step=8, c=8)
    geometry = ring_geometry(3, 1, 1, 1, rows, rows)
    pitch = 8 * (columns + 2)
    row = b.add_stride((0, 1))
    b.add_body(
        "stage",
        [
            r.loop_images(),
            r.recv(parameter(0), 2),
            r.loop(rows),
            r.recv(parameter(0), 1),
            r.loop(columns),
            r.read_xb(At(parameter(1)), At(parameter(0)), parameter(2), window, 8, 0, 1),
            r.end(),
            r.free(parameter(0), 1),
            r.alu(AluFunction.REQUANTISE, At(parameter(3)), At(parameter(1)), n=8, m=columns),
            r.send(At(parameter(3)), parameter(4), n=8, m=columns, row_st=row),
            r.end(),
            r.free(parameter(0), 2),
            r.end(),
            r.halt(),
        ],
    )
    y = b.add_buffer(0, Element.U8, 1, pitch)
    rings: list[int] = []
    for stage in range(contexts):
        core = stage // 2 % 1024
        rings.append(
            b.add_ring(core, Element.U8, 5, pitch, geometry, channels=8, fill=8 * columns, context=stage + 1)
        )
    routes = [b.add_route_set([Route(ring, 0, 0, 0, columns, 8, 1, 0)]) for ring in rings]
    source = b.add_body(
        "source",
        [
            r.loop_images(),
            r.loop(rows),
            r.send(At(y), routes[0], n=8, m=columns, row_st=row),
            r.end(),
            r.end(),
            r.halt(),
        ],
    )
    b.add_context(0, source)
    nobody = b.add_route_set([])
    for stage, ring in enumerate(rings):
        core = stage // 2 % 1024
        acc, out = b.add_buffer(core, Element.I32, 2, pitch), b.add_buffer(core, Element.U8, 2, pitch)
        context = b.add_context(core, 0)
        xb = b.add_array_set(
            context, core, coding, b.weight("w"), (0, 72, 0, 8), [Tile(stage % 2, 0, 72, 0, 8)]
        )
        b.set_params(context, [ring, acc, xb, out, routes[stage + 1] if stage + 1 < contexts else nobody])
    return b.build(MACHINE)


def report(name: str, timing: Timing) -> None:
    """One line a run."""
    print(
        f"{name}: {timing.executed_instructions:,} instructions ({timing.executed_reads:,} reads) in "
        f"{timing.run_seconds:.3f} s = {timing.instructions_per_second / 1e6:.1f} million a second; "
        f"{timing.cycles:,} cycles; prepared in {timing.prepare_seconds:.3f} s, "
        f"kernel compiled or loaded in {timing.jit_seconds:.2f} s"
    )


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("programs", nargs="*", type=Path, help="artifacts or their program folders")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--contexts", type=int, default=2000)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    programs = {
        str(path): load_program(path / "program" if (path / "program").is_dir() else path)
        for path in arguments.programs
    }
    for name, program in (programs or {"synthetic": synthetic(arguments.contexts, 28, 28)}).items():
        for _ in range(arguments.repeat):
            report(name, simulate(program, images=arguments.images if programs else 1))


if __name__ == "__main__":
    main()
