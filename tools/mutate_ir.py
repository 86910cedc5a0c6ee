"""Can a wrong mapped level pass? Seeded single changes to the IR of level 3 and to its placement tables.

    python -m tools.mutate_ir --count 500 --seed 0

A mutant is *rejected* by operation verifiers, the level's table, lowering or the program verifier, or it *changes* an
output integer of the mapped interpreter. Survivors are listed. Exit 1 when more than 2 % survive.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, i64
from xdsl.ir import Attribute, Operation
from xdsl.utils.exceptions import VerifyException

import cimc
from cimc import models
from cimc.diagnostics import CimError
from cimc.dialects.cim import StageOp
from cimc.dialects.cim_types import CodingAttr, WindowAttr
from cimc.dialects.context import CimContext
from cimc.dialects.graph_types import IntsAttr
from cimc.dialects.levels import check_level
from cimc.dialects.weights import WeightRefAttr
from cimc.interpreters.mapped import execute_mapped
from cimc.mapping_options import MappingOptions
from cimc.passes.lower.lower_bodies import LowerBodies
from cimc.passes.place.network import COLUMNS
from cimc.runtime.verifier import check_program

FRAMES = 8
"""Frames of a run; those of the calibration, so that clamps are reached."""
SUBJECTS = (("digits", "isaac", 2), ("resnet-cifar-20", "puma", 1))
"""Network, machine and copies of what is mutated."""

MUTABLE = (IntegerAttr, IntsAttr, WindowAttr, CodingAttr, WeightRefAttr)
REJECTIONS = (CimError, VerifyException, ValueError, KeyError, IndexError, AssertionError)
"""How operation verifiers, lowering and interpreters refuse a wrong module."""

UNREAD = ("frame", "tensors", "label", "max_abs_weight", "grid")
"""Properties that name things for people, or repeat what types and tables say."""

FREE = ("pieces",)
"""Properties of which every value that is accepted is the same computation in another rhythm."""


def candidates(module: ModuleOp) -> list[tuple[Operation, str]]:
    """Every property of a meta-operator or stage that a mutation may change."""
    return [
        (op, name)
        for op in module.walk()
        if op.name.startswith("cim.")
        for name, attr in op.properties.items()
        if name not in (*UNREAD, *FREE) and isinstance(attr, MUTABLE)
    ]


def changed(attr: Attribute, ctx: CimContext, generator: np.random.Generator) -> Attribute:
    """``attr`` with one number changed, or another array of the store with one element changed."""
    delta = int(generator.choice([-2, -1, 1, 2]))
    match attr:
        case IntegerAttr():
            return IntegerAttr(attr.value.data + delta * max(1, abs(attr.value.data) // 4), i64)
        case WindowAttr():
            values = list(attr.extents.data)
            values[int(generator.integers(len(values)))] += delta
            return WindowAttr(IntsAttr.of(values))
        case IntsAttr():
            values = list(attr.data)
            values[int(generator.integers(len(values)))] += delta
            return IntsAttr.of(values)
        case CodingAttr():
            numbers = [i for i, (k, v) in enumerate(attr.data) if isinstance(v, int) and k not in UNREAD]
            at = int(generator.choice(numbers))
            fields = list(attr.data)
            key, value = fields[at]
            assert isinstance(value, int)
            fields[at] = (key, value + delta)
            return CodingAttr(tuple(fields))
        case WeightRefAttr():
            return _changed_array(attr, ctx, generator, delta)
        case _:
            raise TypeError(f"{attr} is not mutable")


def _changed_array(
    attr: WeightRefAttr, ctx: CimContext, generator: np.random.Generator, delta: int
) -> WeightRefAttr:
    array = np.array(ctx.store.array(attr.key.data))
    extents = list(array.shape)
    if attr.key.data.endswith(".place"):
        # Another core or crossbar is another valid placement, unless taken, which tools.mutate tries.
        extents[1] = COLUMNS.index("core")
    index = tuple(int(generator.integers(extent)) for extent in extents)
    if array.dtype.kind == "f":
        array[index] *= 1.5
    elif array.dtype == np.int8:
        array[index] = array[index] - 64 if array[index] > 0 else array[index] + 64
    elif attr.key.data.endswith(".constant"):
        array[index] += int(array[index]) // 2 or delta
    else:
        array[index] += delta
    return WeightRefAttr.of(ctx.store.put(ctx.store.fresh(f"{attr.key.data}.mutant"), array))


def outputs(module: ModuleOp, ctx: CimContext, x: npt.NDArray[Any]) -> Mapping[str, npt.NDArray[Any]]:
    """Integer outputs of the mapped interpreter."""
    return execute_mapped(module, ctx.store, {"x": x}, arch=ctx.arch).integer_outputs


def judge(
    module: ModuleOp, ctx: CimContext, x: npt.NDArray[Any], expected: Mapping[str, npt.NDArray[Any]]
) -> str:
    """What becomes of a mutated module."""
    try:
        check_level(module, "mapped")
        found = outputs(module, ctx, x)
        if any(not np.array_equal(found[name], codes) for name, codes in expected.items()):
            return "changed"
        linked = LowerBodies().apply(ctx, module, frames=1, total_macs=0)
        check_program(linked.program, weights={key: ctx.store.array(key) for key in linked.matrices})
    except REJECTIONS:
        return "rejected"
    return "survived"


@click.command()
@click.option("--count", default=500, help="Mutants in all.")
@click.option("--seed", default=0, help="Seed of the choices.")
def main(count: int, seed: int) -> None:
    """Mutate the mapped level and report what became of each change."""
    generator = np.random.default_rng(seed)
    levels: list[tuple[ModuleOp, CimContext]] = []
    frames: list[npt.NDArray[Any]] = []
    for name, machine, copies in SUBJECTS:
        frames.append(models.images(FRAMES, models.network(name).shape, seed=1))
        with tempfile.TemporaryDirectory() as folder:
            model = models.export_onnx(name, Path(folder) / "model.onnx")
            options = MappingOptions(copies=copies)
            made = cimc.compile(model, machine, calibration={"x": frames[-1]}, mapping=options)
        levels.append(made.level("mapped"))
    expected = [outputs(module, ctx, x) for (module, ctx), x in zip(levels, frames, strict=True)]
    verdicts: Counter[tuple[str, str]] = Counter()
    survivors: list[str] = []
    for number in range(count):
        which = number % len(levels)
        module, ctx = levels[which]
        mutant = module.clone()
        choices = candidates(mutant)
        op, name = choices[int(generator.integers(len(choices)))]
        old = op.properties[name]
        try:
            op.properties[name] = changed(old, ctx, generator)
        except VerifyException:  # of the attribute itself
            verdicts[f"{op.name} {name}", "rejected"] += 1
            continue
        verdict = judge(mutant, ctx, frames[which], expected[which])
        verdicts[f"{op.name} {name}", verdict] += 1
        if verdict == "survived":
            stage = op if isinstance(op, StageOp) else op.parent_op()
            label = stage.label.data if isinstance(stage, StageOp) else "-"
            survivors.append(f"{label}: {op.name} {name}: {old} -> {op.properties[name]}")
    print(f"{'change':32} {'rejected':>8} {'changed':>8} {'survived':>8}")
    for kind in sorted({kind for kind, _ in verdicts}):
        print(f"{kind:32} " + " ".join(f"{verdicts[kind, v]:8}" for v in ("rejected", "changed", "survived")))
    share = 1 - len(survivors) / count
    print(f"{count} mutants, {share:.2%} rejected or changed; survivors:")
    for line in survivors:
        print(f"  {line}")
    sys.exit(0 if share >= 0.98 else 1)


if __name__ == "__main__":
    main()
