"""Each pass of mapping and lowering against its specification: ``filecheck/<pass>.mlir``, cases between ``// -----``.

``// RUN: <passes>``; ``// MACHINE: key=value ...`` and ``// MAPPING: key=value ...`` change the small machine and the
default options; ``// WEIGHT: key extents least most`` stores random integers; ``// SHOW: key`` prints an array of the
store behind the module. The ``// CHECK`` lines of a case match what is printed.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from filecheck.finput import FInput
from filecheck.matcher import Matcher
from filecheck.options import Options
from filecheck.parser import Parser as CheckParser
from filecheck.parser import pattern_for_opts
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser
from xdsl.passes import ModulePass

from cimc.dialects.context import CimContext
from cimc.dialects.levels import check_level
from cimc.driver import print_module
from cimc.mapping_options import MappingOptions
from cimc.passes.lower.lower_bodies import LowerBodies
from cimc.pipeline import pipeline
from tests.mapping.small_machine import small_machine

FOLDER = Path(__file__).parent / "filecheck"
CASES = [
    pytest.param(text, id=f"{file.stem}-{index}")
    for file in sorted(FOLDER.glob("*.mlir"))
    for index, text in enumerate(file.read_text(encoding="utf-8").split("// -----\n"))
]
PASSES: dict[str, ModulePass] = {
    step.run.name: step.run for step in pipeline(MappingOptions()) if step.stage in ("schedule", "place")
}


def _pairs(argument: str) -> dict[str, str]:
    return dict(pair.split("=") for pair in argument.split())


def _prepare(text: str) -> tuple[CimContext, list[str], list[str]]:
    """The context of a case, its passes and the arrays it shows."""
    context = CimContext(arch=small_machine(), mapping=MappingOptions())
    generator = np.random.default_rng(0)
    passes: list[str] = []
    shown: list[str] = []

    def weight(argument: str) -> None:
        key, extents, least, most = argument.split()
        shape = tuple(map(int, extents.split("x")))
        context.store.put(key, generator.integers(int(least), int(most) + 1, shape).astype(np.int16))

    def scale(argument: str) -> None:
        key, value, count = argument.split()
        context.store.put(key, np.full(int(count), value, np.float32))

    def machine(argument: str) -> None:
        context.arch = small_machine(**{key: int(value) for key, value in _pairs(argument).items()})

    def mapping(argument: str) -> None:
        context.mapping = MappingOptions.model_validate(
            {key: int(value) if value.isdigit() else value for key, value in _pairs(argument).items()}
        )

    known: dict[str, Callable[[str], None]] = {
        "RUN": lambda argument: passes.extend(argument.split()),
        "SHOW": shown.append,
        "WEIGHT": weight,
        "SCALE": scale,
        "MACHINE": machine,
        "MAPPING": mapping,
    }
    for line in text.splitlines():
        kind, _, argument = line.removeprefix("// ").partition(": ")
        if line.startswith("// ") and kind in known:
            known[kind](argument)
    return context, passes, shown


def _run(module: ModuleOp, passes: list[str], context: CimContext) -> ModuleOp:
    """Apply the passes; the level they end at must hold what they leave."""
    for name in passes:
        if name == "lower-bodies":
            lowered = LowerBodies().apply(context, module, frames=1, total_macs=0).module
            check_level(lowered, "isa")
            return lowered
        PASSES[name].apply(context, module)
        check_level(module, "mapped")
    return module


@pytest.mark.parametrize("text", CASES)
def test_case(text: str) -> None:
    """What the passes make is legal at its level, parses back to itself, and matches the checks of the case."""
    context, passes, shown = _prepare(text)
    module = Parser(context, text).parse_module()
    check_level(module, "quantised")
    printed = print_module(_run(module, passes, context))
    assert print_module(Parser(context, printed).parse_module()) == printed
    arrays = [f"{key} = {context.store.array(key).tolist()}\n" for key in shown]
    output = printed + "".join(arrays)
    options = Options(match_filename="case", comment_prefixes=["COM"])
    checks = CheckParser(options, io.StringIO(text), *pattern_for_opts(options))
    assert Matcher(options, FInput("output", output), checks).run() == 0, output


def test_every_pass_has_cases() -> None:
    """One pass, one file of cases, one name."""
    assert {file.stem for file in FOLDER.glob("*.mlir")} == {*PASSES, "lower-bodies"}
