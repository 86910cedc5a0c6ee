"""FileCheck in one process: ``// RUN:`` names passes, ``// WEIGHTS:`` float32 or float64 arrays of the store."""

from __future__ import annotations

import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from filecheck.finput import FInput
from filecheck.matcher import Matcher
from filecheck.options import Options
from filecheck.parser import Parser as CheckParser
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser
from xdsl.passes import ModulePass
from xdsl.printer import Printer
from xdsl.utils.arg_spec import parse_pipeline

from cimc.dialects.context import CimContext
from cimc.passes.graph.canonicalise import Canonicalise
from cimc.passes.graph.fold_batch_norm import FoldBatchNorm
from cimc.passes.graph.hoist_pointwise import HoistPointwise
from cimc.passes.graph.rebind_batch import RebindBatch

PASSES: dict[str, type[ModulePass]] = {
    p.name: p for p in (HoistPointwise, FoldBatchNorm, Canonicalise, RebindBatch)
}


def _parse(text: str, ctx: CimContext | None = None) -> ModuleOp:
    module = Parser(ctx or CimContext(), text).parse_module()
    module.verify()
    return module


def _print(module: ModuleOp) -> str:
    out = StringIO()
    Printer(out, print_debuginfo=True).print_op(module)
    return out.getvalue()


@pytest.fixture
def parse() -> Callable[[str], ModuleOp]:
    """``parse(text)``: the verified module."""
    return _parse


@pytest.fixture
def show() -> Callable[[ModuleOp], str]:
    """``show(module)``: its text with locations."""
    return _print


@pytest.fixture
def filecheck() -> Callable[[Path], None]:
    """``filecheck(path)``: run the file's passes over it and match its CHECK lines."""

    def run(path: Path) -> None:
        text = path.read_text()
        ctx = CimContext()
        rng = np.random.default_rng(0)
        for key, element, dims in re.findall(r"([\w.]+)=(f32|f64):([\dx]+)", text):
            shape = [int(d) for d in dims.split("x")]
            ctx.store.put(key, rng.normal(size=shape).astype({"f32": np.float32, "f64": np.float64}[element]))
        (pipeline,) = re.findall(r"// RUN: (.*)", text)
        module = _parse(text, ctx)
        for spec in parse_pipeline(pipeline):
            PASSES[spec.name].from_spec(spec).apply(ctx, module)
            module.verify()
        options = Options(match_filename=str(path))
        matcher = Matcher(options, FInput("output", _print(module) + "\n"), CheckParser.from_opts(options))
        matcher.stderr = StringIO()
        assert matcher.run() == 0, f"{matcher.stderr.getvalue()}\n{_print(module)}"

    return run
