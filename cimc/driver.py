"""Runs the pipeline: levels checked at every border, dumps, timing, stopping, resuming, reproducers."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.utils.exceptions import ParseError, PassFailedException, VerifyException

from cimc.diagnostics import CimError, UnsupportedError, UsageError
from cimc.dialects.context import CimContext
from cimc.dialects.levels import check_level
from cimc.dialects.weights import WeightStore
from cimc.pipeline import LEVEL_AFTER, PipelineStep

STORE = "store.safetensors"
"""The arrays a folder of dumps names, beside the dumps."""

LEVELS = ("imported", "graph", "quantised", "mapped", "isa")
"""Levels in order; ``stop_after`` names one."""

_DUMP = re.compile(r"(\d{3})_([a-z]+)_([a-z0-9-]+)\.mlir")

MAX_OPERATIONS = 50_000
"""Above this the IR has grown with something it must not grow with (docs/architecture.md, the size law)."""


def print_module(module: ModuleOp) -> str:
    """The module as text with locations; equal modules give equal text."""
    import io

    out = io.StringIO()
    Printer(out, print_debuginfo=True).print_op(module)
    return out.getvalue() + "\n"


def parse_module(text: str, ctx: CimContext, name: str) -> ModuleOp:
    """Read what :func:`print_module` wrote. Raises ``UsageError`` with the parser's position."""
    try:
        return Parser(ctx, text, name).parse_module()
    except (ParseError, VerifyException) as error:
        raise UsageError(f"cannot read the IR: {error}", where=name) from error


@dataclass
class Dumps:
    """Numbered files ``NNN_<level>_<pass>.mlir`` and the store they name."""

    folder: Path
    count: int = 0

    def write(self, module: ModuleOp, level: str, name: str) -> None:
        """Write the next dump."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{self.count:03d}_{level}_{name}.mlir").write_text(print_module(module))
        self.count += 1

    def write_store(self, store: WeightStore) -> None:
        """Write the arrays all dumps name; arrays never change, so one file serves all."""
        store.save(self.folder / STORE)


@dataclass(frozen=True)
class ResumePoint:
    """A dump to go on from: its level and the pass that made it."""

    path: Path
    level: str
    made_by: str

    @staticmethod
    def of(path: Path) -> ResumePoint:
        """Read level and pass off the file's name. Raises ``UsageError`` for a name that is not a dump's."""
        match = _DUMP.fullmatch(path.name)
        if match is None:
            raise UsageError(
                "a dump to resume from is called NNN_<level>_<pass>.mlir, as --dump-ir writes it",
                where=path.name,
            )
        if match[2] == "isa":
            raise UsageError(
                "the isa level names contexts and routes that are not IR; resume from the last mapped dump",
                where=path.name,
            )
        return ResumePoint(path, match[2], match[3])

    def remaining(self, steps: Sequence[PipelineStep]) -> tuple[PipelineStep, ...]:
        """The passes after the one that made the dump."""
        names = [step.run.name for step in steps]
        if self.made_by == "import":
            return tuple(steps)
        if self.made_by not in names:
            raise UsageError(
                f"no pass '{self.made_by}' in this pipeline: {', '.join(names)}", where=self.path.name
            )
        return tuple(steps[names.index(self.made_by) + 1 :])


@dataclass(frozen=True)
class PassResult:
    """What a pass left in place, for whoever watches a compile."""

    name: str
    """Name of the pass; ``import`` for the front end."""
    stage: str
    level: str
    module: ModuleOp
    ctx: CimContext


class InternalError(Exception):
    """A bug of ours: what failed, and where the reproducer lies."""


@dataclass
class Driver:
    """Takes a module through passes; keeps the modules at the end of each level."""

    ctx: CimContext
    dumps: Dumps | None = None
    on_time: Callable[[str, float], None] | None = None
    after_pass: Callable[[PassResult], None] | None = None
    """Called with the result of the import and of every pass: ``cimc verify`` compares it with the one before."""
    crash_folder: Path = Path("cimc-crash")
    kept: dict[str, ModuleOp] = field(default_factory=dict[str, ModuleOp])

    def run(self, module: ModuleOp, steps: Sequence[PipelineStep], level: str) -> str:
        """Run the passes of one stage on ``module`` in place; returns the level they leave it at.

        Raises ``CimError`` of a pass as it is, and :class:`InternalError` with a reproducer for anything else.
        """
        for number, step in enumerate(steps):
            good = module.clone() if self.dumps is None else None
            started = time.perf_counter()
            try:
                step.run.apply(self.ctx, module)
            except (PassFailedException, VerifyException) as error:
                raise UnsupportedError(str(error)) from error
            except CimError:
                raise
            except Exception as error:  # any fault of a pass, ours or a plug-in's: keep what shows it again
                raise self._internal(step, steps[number:], good, error) from error
            last = number + 1 == len(steps)
            # The first pass of `schedule` already leaves level 2; other stages end at their last pass.
            if last or step.stage in ("schedule", "place"):
                level = LEVEL_AFTER.get(step.stage, level)
            self._report(step.run.name, started)
            if self.dumps is not None:
                self.dumps.write(module, level, step.run.name)
            if last:
                self._check(module, level, step)
            self.show(step.run.name, step.stage, level, module)
        return level

    def show(self, name: str, stage: str, level: str, module: ModuleOp) -> None:
        """Tell the watcher, if there is one, what ``name`` left."""
        if self.after_pass is not None:
            self.after_pass(PassResult(name, stage, level, module, self.ctx))

    def finish(self, module: ModuleOp) -> None:
        """Keep, check and dump the bodies of the instruction level."""
        if self.dumps is not None:
            self.dumps.write(module, "isa", "lower-bodies")
        check_level(module, "isa")
        self.kept["isa"] = module

    def _check(self, module: ModuleOp, level: str, step: PipelineStep) -> None:
        check_level(module, level)
        operations = sum(1 for _ in module.walk())
        if operations > MAX_OPERATIONS:
            raise UnsupportedError(
                f"{step.run.name} left {operations} operations, more than {MAX_OPERATIONS}: the model is too large "
                "for one program; split it"
            )
        self.kept[level] = module.clone()

    def _report(self, name: str, started: float) -> None:
        if self.on_time is not None:
            self.on_time(name, time.perf_counter() - started)

    def _internal(
        self, step: PipelineStep, rest: Sequence[PipelineStep], good: ModuleOp | None, error: Exception
    ) -> InternalError:
        """Write the last good IR and what was to run on it."""
        import traceback

        folder = self.crash_folder
        folder.mkdir(parents=True, exist_ok=True)
        if good is not None:
            (folder / "last_good.mlir").write_text(print_module(good))
        self.ctx.store.save(folder / STORE)
        arch: Any = self.ctx.arch
        note = {
            "failed_pass": step.run.name,
            "remaining_passes": [str(s.run.pipeline_pass_spec()) for s in rest],
            "architecture": arch.model_dump(mode="json") if arch is not None else None,
            "error": "".join(traceback.format_exception(error)),
        }
        (folder / "reproducer.json").write_text(json.dumps(note, indent=1) + "\n")
        where = self.dumps.folder if self.dumps is not None else folder
        return InternalError(
            f"{step.run.name} failed: {type(error).__name__}: {error}; last good IR in {where}, "
            f"reproducer in {folder}"
        )
