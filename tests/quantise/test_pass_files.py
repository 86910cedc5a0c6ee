"""Each pass against its specification: the cases of ``filecheck/<pass>.mlir``, one per ``// -----``.

A case begins with ``// RUN: <pipeline>``; ``// RANGE: tensor low high`` and ``// WEIGHT: key extents``
fill the store. What the pipeline makes is printed and matched by the ``// CHECK`` lines of the case.
"""

import io
from pathlib import Path

import numpy as np
import pytest
from filecheck.finput import FInput
from filecheck.matcher import Matcher
from filecheck.options import Options
from filecheck.parser import Parser as CheckParser
from filecheck.parser import pattern_for_opts
from xdsl.parser import Parser
from xdsl.passes import PassPipeline

from cimc.dialects.context import CimContext
from cimc.passes.quantise.options import QuantOptions
from cimc.passes.quantise.ranges import put_ranges

FOLDER = Path(__file__).parent / "filecheck"
CASES = [
    pytest.param(text, id=f"{file.stem}-{index}")
    for file in sorted(FOLDER.glob("*.mlir"))
    for index, text in enumerate(file.read_text(encoding="utf-8").split("// -----\n"))
]
PASSES = {type(p).name: type(p) for p in QuantOptions().passes()}


@pytest.mark.parametrize("text", CASES)
def test_case(text: str) -> None:
    """The printed program matches the checks of the case, verifies, and parses back to itself."""
    context = CimContext()
    directives = [
        line.removeprefix("// ").split(": ", 1) for line in text.splitlines() if line.startswith("// ")
    ]
    generator = np.random.default_rng(0)
    pipelines: list[str] = []
    for kind, argument in (d for d in directives if len(d) == 2):
        if kind == "RUN":
            pipelines.append(argument)
        if kind == "RANGE":
            name, low, high = argument.split()
            put_ranges(context.store, {name: np.array([low, high], np.float32)})
        if kind == "WEIGHT":
            key, extents = argument.split()
            shape = tuple(int(n) for n in extents.split("x"))
            context.store.put(key, generator.normal(size=shape).astype(np.float32))
    module = Parser(context, text).parse_module()
    module.verify()
    PassPipeline.parse_spec({name: (lambda p=p: p) for name, p in PASSES.items()}, pipelines[0]).apply(
        context, module
    )
    module.verify()
    printed = str(module) + "\n"
    assert str(Parser(context, printed).parse_module()) + "\n" == printed
    options = Options(match_filename="case", comment_prefixes=["COM"])
    checks = CheckParser(options, io.StringIO(text), *pattern_for_opts(options))
    assert Matcher(options, FInput("output", printed), checks).run() == 0, printed


def test_every_pass_has_cases() -> None:
    """One pass, one file of cases, one name."""
    assert {file.stem for file in FOLDER.glob("*.mlir")} == set(PASSES)
