"""Can a wrong program pass? Seeded single changes to valid programs, each rejected, changed, or a survivor.

    python -m tools.mutate --count 600 --seed 0

A mutant is *rejected* by the program verifier or by a rule the functional engine checks, or it *changes* an output
integer, one of a tapped tensor included. Survivors are listed. Exit 1 when more than 2 % survive.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

import cimc
from cimc import models
from cimc.diagnostics import CimError
from cimc.mapping_options import MappingOptions
from cimc.runtime.functional.engine import run_program
from cimc.runtime.program import Opcode, Program
from cimc.runtime.verifier import verify_program

Weights = Mapping[str, npt.NDArray[Any]]

TRIES = 60
"""Changes that are drawn until one is new."""

FRAMES = 6
"""Frames of a mutant's run: later ones meet rings in the state the first leaves, and other weights matter."""


@dataclass(frozen=True)
class Subject:
    """A valid program, its weights, inputs and the right integers."""

    name: str
    program: Program
    weights: Weights
    inputs: Mapping[str, npt.NDArray[Any]]
    expected: Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Mutant:
    """One change, in words, and what it leaves."""

    kind: str
    text: str
    program: Program
    weights: Weights


def subject(name: str, machine: str, copies: int, folder: Path) -> Subject:
    """A network of the models folder compiled with ``copies`` of every stage."""
    path = folder / f"{name}.onnx"
    if not path.exists():
        models.export_onnx(name, path)
    shape = models.network(name).shape
    made = cimc.compile(
        path,
        machine,
        calibration={"x": models.images(8, shape, seed=1)},
        mapping=MappingOptions(copies=copies),
    )
    inputs = {"x": models.images(FRAMES, shape, seed=2)}
    expected = integers(made.program, made.weights, inputs)
    return Subject(f"{name}/{machine}/copies {copies}", made.program, made.weights, inputs, expected)


def integers(
    program: Program, weights: Weights, inputs: Mapping[str, npt.NDArray[Any]]
) -> dict[str, npt.NDArray[Any]]:
    """Outputs and tapped tensors of a run, by role and name."""
    found = run_program(program, weights, inputs, taps=[tap.name for tap in program.taps])
    outputs = {f"output {name}": array for name, array in found.outputs.items()}
    return outputs | {f"tap {name}": array for name, array in found.taps.items()}


def with_table(program: Program, table: str, columns: Mapping[str, npt.NDArray[Any]]) -> Program:
    """``program`` with another table."""
    return replace(program, tables={**program.tables, table: columns})


def changed_number(table: str, names: Sequence[str]) -> Callable[[Subject, np.random.Generator], Mutant]:
    """A mutation that changes one number of one of the columns ``names`` by a little."""

    def mutate(subject: Subject, generator: np.random.Generator) -> Mutant:
        program = subject.program
        name = str(generator.choice(list(names)))
        column = np.array(program[table][name])
        index = tuple(int(generator.integers(extent)) for extent in column.shape)
        old = column[index]
        if column.dtype.kind == "f":
            column[index] = old * np.float32(1.25) + np.float32(0.01)
        elif table == "const_i":  # biases, zero points, clamps: less than a code's worth of sums rounds away
            column[index] = old + (int(old) // 2 or 1)
        else:
            column[index] = old + int(generator.choice([-2, -1, 1, 2, 5]))
        text = f"{table}.{name}{list(index)}: {old} -> {column[index]}"
        return Mutant(
            table, text, with_table(program, table, {**program[table], name: column}), subject.weights
        )

    return mutate


def changed_weight(subject: Subject, generator: np.random.Generator) -> Mutant:
    """One weight of the image takes another value: other digits in its cells."""
    name = str(generator.choice(list(subject.program.weights)))
    matrix = np.array(subject.weights[name])
    index = tuple(int(generator.integers(extent)) for extent in matrix.shape)
    old = int(matrix[index])
    matrix[index] = old - 64 if old > 0 else old + 64
    text = f"weight {name}{list(index)}: {old} -> {matrix[index]}"
    return Mutant("cell", text, subject.program, {**subject.weights, name: matrix})


def _rows_of(program: Program, opcodes: Sequence[Opcode]) -> list[int]:
    return np.flatnonzero(np.isin(program["instructions"]["opcode"], [int(o) for o in opcodes])).tolist()


def dropped_row(opcode: Opcode, *more: Opcode) -> Callable[[Subject, np.random.Generator], Mutant]:
    """A mutation that removes one instruction of the given kinds."""

    def mutate(subject: Subject, generator: np.random.Generator) -> Mutant:
        program = subject.program
        row = int(generator.choice(_rows_of(program, (opcode, *more))))
        rows = {name: np.delete(column, row, axis=0) for name, column in program["instructions"].items()}
        bodies = {name: np.array(column) for name, column in program["bodies"].items()}
        holder = int(np.flatnonzero(bodies["first"] <= row).max())
        bodies["count"][holder] -= 1
        bodies["first"][bodies["first"] > row] -= 1
        less = with_table(with_table(program, "instructions", rows), "bodies", bodies)
        return Mutant(f"dropped {opcode.name.lower()}", f"instruction {row} dropped", less, subject.weights)

    return mutate


def _share(program: Program, row: int) -> bool:
    """Whether instructions ``row`` and ``row + 1`` touch a common buffer: the others may change places freely."""
    columns = program["instructions"]
    touched = [{int(columns[name][r]) for name in ("dst", "a", "b")} - {-1} for r in (row, row + 1)]
    controls = {int(Opcode.LOOP), int(Opcode.END), int(Opcode.HALT)}
    return bool(touched[0] & touched[1]) or bool(
        controls & {int(columns["opcode"][r]) for r in (row, row + 1)}
    )


def swapped_rows(subject: Subject, generator: np.random.Generator) -> Mutant:
    """Two neighbouring instructions of a body that touch a common buffer, or a loop's edge, change places."""
    program = subject.program
    bodies = program["bodies"]
    spans = zip(bodies["first"].tolist(), bodies["count"].tolist(), strict=True)
    rows_of_bodies = [row for first, count in spans for row in range(first, first + count - 1)]
    row = int(generator.choice([r for r in rows_of_bodies if _share(program, r)]))
    order = np.arange(program.count("instructions"))
    order[[row, row + 1]] = row + 1, row
    rows = {name: column[order] for name, column in program["instructions"].items()}
    text = f"instructions {row} and {row + 1} swapped"
    return Mutant("swapped rows", text, with_table(program, "instructions", rows), subject.weights)


OPERANDS = ("a_row", "a_col", "dst_row", "dst_col", "b_row", "b_col", "n", "m")
MUTATIONS: tuple[Callable[[Subject, np.random.Generator], Mutant], ...] = (
    changed_weight,
    changed_number("instructions", OPERANDS),
    changed_number("instructions", ("a", "dst", "xb", "imm")),
    changed_number("strides", ("row", "col")),
    changed_number("params", ("value",)),
    changed_number("routes", ("ring", "src_pos", "src_chan", "positions", "channels", "dst_pos", "dst_chan")),
    changed_number("buffers", ("first", "period", "advance", "places", "top", "bottom", "fill", "pad")),
    changed_number("windows", ("kh", "row_step", "kw", "col_step", "c", "lo", "hi", "pos_step")),
    changed_number("array_sets", ("core", "tensor", "k0", "k1", "n0", "n1")),
    changed_number("tiles", ("xbar", "k0", "k1", "n0", "n1")),
    changed_number("const_i", ("value",)),
    changed_number("const_f", ("value",)),
    changed_number("steps", ("h",)),
    changed_number("codings", ("fields",)),
    dropped_row(Opcode.WRITE_ROW, Opcode.WRITE_XB),
    dropped_row(Opcode.RECV),
    dropped_row(Opcode.FREE),
    dropped_row(Opcode.SEND),
    dropped_row(Opcode.LOOP, Opcode.END),
    dropped_row(Opcode.ALU),
    swapped_rows,
)


def judge(subject: Subject, mutant: Mutant) -> str:
    """``rejected`` by verifier or engine, ``changed`` output, or ``survived``."""
    try:
        if verify_program(mutant.program, weights=mutant.weights):
            return "rejected"
        outputs = integers(mutant.program, mutant.weights, subject.inputs)
    except CimError:
        return "rejected"
    same = all(np.array_equal(outputs[name], codes) for name, codes in subject.expected.items())
    return "survived" if same else "changed"


@click.command()
@click.option("--count", default=600, help="Mutants in all.")
@click.option("--seed", default=0, help="Seed of the choices.")
def main(count: int, seed: int) -> None:
    """Mutate valid programs and report what became of each change."""
    generator = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        subjects = [
            subject("digits", "isaac", 1, Path(folder)),
            subject("digits", "puma", 3, Path(folder)),
            subject("resnet-cifar-20", "isaac", 2, Path(folder)),
        ]
    verdicts: Counter[tuple[str, str]] = Counter()
    survivors: list[str] = []
    seen: set[tuple[str, str]] = set()
    for number in range(count):
        kind, turn = number % len(MUTATIONS), number // len(MUTATIONS)
        chosen = subjects[(kind + turn) % len(subjects)]  # every kind of change meets every program
        mutant = MUTATIONS[kind](chosen, generator)
        for again in range(TRIES):  # a small table has few changes, and each counts once
            if (chosen.name, mutant.text) not in seen:
                break
            chosen = subjects[(kind + turn + again) % len(subjects)]
            mutant = MUTATIONS[kind](chosen, generator)
        seen.add((chosen.name, mutant.text))
        verdict = judge(chosen, mutant)
        verdicts[mutant.kind, verdict] += 1
        if verdict == "survived":
            survivors.append(f"{chosen.name}: {mutant.kind}: {mutant.text}")
    kinds = sorted({kind for kind, _ in verdicts})
    print(f"{'change':18} {'rejected':>8} {'changed':>8} {'survived':>8}")
    for kind in kinds:
        print(f"{kind:18} " + " ".join(f"{verdicts[kind, v]:8}" for v in ("rejected", "changed", "survived")))
    share = 1 - len(survivors) / count
    print(f"{count} mutants, {share:.2%} rejected or changed; survivors:")
    for line in survivors:
        print(f"  {line}")
    sys.exit(0 if share >= 0.98 else 1)


if __name__ == "__main__":
    main()
