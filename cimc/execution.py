"""Runs a model on one of the engines and brings the results into one form."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import ModuleOp

from cimc.dialects.context import CimContext
from cimc.dialects.graph import INPUTS, HostOp, main_function, main_names
from cimc.dialects.graph_types import shape_of
from cimc.passes.graph.rebind_batch import RebindBatch, is_batch_parallel
from cimc.results import RunResult
from cimc.runtime.functional.arrays import Arrays
from cimc.runtime.functional.engine import FunctionalResult, run_program
from cimc.runtime.numerics.digital import dequantise
from cimc.runtime.program import Program

Array = npt.NDArray[Any]

CHUNK_BYTES = 64 << 20
"""Input bytes of the frames an interpreter takes at once."""


def run_stream(
    program: Program,
    weights: Mapping[str, Array],
    inputs: Mapping[str, Array],
    taps: Collection[str],
    hosts: Callable[[str], bytes],
    walk: bool,
) -> RunResult:
    """Execute the instruction stream; codes of outputs become reals by the I/O table (numerics 0.2).

    A program of several phases spills as many frames as one call of the model has, so more are run in groups, on the
    same crossbars: what stays in them is written by the first.
    """
    frames = max((len(a) if np.ndim(a) else 0 for a in inputs.values()), default=0)
    groups = [inputs]
    arrays: Arrays | None = None
    if program.phased and frames > program.frames:
        step = program.frames
        groups = [{k: a[i : i + step] for k, a in inputs.items()} for i in range(0, frames, step)]
        arrays = Arrays(program, weights)
    calls = [
        _in_reals(
            program, run_program(program, weights, group, taps=taps, walk=walk, hosts=hosts, arrays=arrays)
        )
        for group in groups
    ]
    return calls[0] if len(calls) == 1 else joined(calls)


def _in_reals(program: Program, found: FunctionalResult) -> RunResult:
    """What a call of the program delivered, with the reals of its output codes."""
    outputs: dict[str, Array] = {}
    integers: dict[str, Array] = {}
    for io in program.io:
        if io.direction != "out":
            continue
        value = found.outputs[io.name]
        if io.scale is None:
            outputs[io.name] = value
            continue
        integers[io.name] = value
        outputs[io.name] = dequantise(value, np.float32(io.scale), io.zero_point)
    return RunResult(
        outputs,
        integers,
        found.taps,
        found.array_macs,
        program.total_macs * found.frames,
        found.executed_instructions,
    )


def run_level(
    engine: str, module: ModuleOp, ctx: CimContext, inputs: Mapping[str, Array], taps: Collection[str]
) -> RunResult:
    """Execute the module of a level with its interpreter."""
    if engine == "mapped":
        return _run_mapped(module, ctx, inputs, taps)
    parts = [_run_graph(engine, *chunk, ctx, taps) for chunk in _chunks(module, ctx, inputs)]
    return parts[0] if len(parts) == 1 else joined(parts)


def _run_mapped(
    module: ModuleOp, ctx: CimContext, inputs: Mapping[str, Array], taps: Collection[str]
) -> RunResult:
    from cimc.interpreters.mapped import execute_mapped

    found = execute_mapped(module, ctx.store, inputs, taps=taps, arch=ctx.arch)
    return RunResult(found.outputs, found.integer_outputs, found.taps)


def _run_graph(
    engine: str, module: ModuleOp, inputs: Mapping[str, Array], ctx: CimContext, taps: Collection[str]
) -> RunResult:
    if engine == "quantised":
        from cimc.interpreters.quantised import execute_quantised

        run = execute_quantised(module, ctx.store, inputs, taps=taps)
        return RunResult(run.outputs, run.integer_outputs, run.taps)
    from cimc.interpreters.graph import run_graph

    found = run_graph(module, ctx.store, inputs, taps=taps)
    return RunResult({k: v for k, v in found.items() if k not in taps}, {}, {k: found[k] for k in taps})


def _chunks(
    module: ModuleOp, ctx: CimContext, inputs: Mapping[str, Array]
) -> list[tuple[ModuleOp, dict[str, Array]]]:
    """The module bound to as many frames as fit a budget, with those frames.

    Host operators hold models of one frame, so a module with one runs frame by frame; a module that mixes its
    batch, or inputs that do not agree, go in as they are and the interpreter judges them.
    """
    frames = {len(a) if np.ndim(a) else 0 for a in inputs.values()}
    names = set(main_names(module, INPUTS))
    if not is_batch_parallel(module) or len(frames) != 1 or frames == {0} or set(inputs) != names:
        return [(module, dict(inputs))]
    (count,) = frames
    arguments = main_function(module).args
    frame_bytes = sum(4 * prod(shape_of(a)[1:]) for a in arguments)
    step = (
        1 if any(isinstance(op, HostOp) for op in module.walk()) else max(1, CHUNK_BYTES // (8 * frame_bytes))
    )
    bound: dict[int, ModuleOp] = {}
    chunks: list[tuple[ModuleOp, dict[str, Array]]] = []
    for start in range(0, count, step):
        size = min(step, count - start)
        if size not in bound:
            bound[size] = module.clone()
            RebindBatch(size).apply(ctx, bound[size])
        chunks.append((bound[size], {k: np.asarray(a)[start : start + size] for k, a in inputs.items()}))
    return chunks


def joined(parts: list[RunResult]) -> RunResult:
    """Results of consecutive frames as one."""

    def join(maps: list[Mapping[str, Array]]) -> dict[str, Array]:
        return {name: np.concatenate([m[name] for m in maps]) for name in maps[0]}

    return RunResult(
        join([p.outputs for p in parts]),
        join([p.integer_outputs for p in parts]),
        join([p.taps for p in parts]),
        sum(p.array_macs for p in parts),
        sum(p.total_macs for p in parts),
        sum(p.executed_instructions for p in parts),
    )
