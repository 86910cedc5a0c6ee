"""The parts of an artifact, from a compile in memory or from its files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
from xdsl.dialects.builtin import ModuleOp

from cimc.backends.schema import Architecture
from cimc.compiler import Compiled, CompileOptions
from cimc.diagnostics import UsageError
from cimc.dialects.context import CimContext
from cimc.dialects.weights import WeightStore
from cimc.driver import STORE, parse_module, print_module
from cimc.report import build_report
from cimc.runtime.artifact_files import ArtifactFiles, ArtifactWriter
from cimc.runtime.program import Program
from cimc.runtime.program.files import save_program
from cimc.runtime.verifier import check_program

Array = npt.NDArray[Any]

IR = "ir"
"""Folder of the levels' modules and the arrays they name. The instruction stream runs without it."""


@dataclass(frozen=True)
class Parts:
    """What an :class:`~cimc.api.Artifact` is made of."""

    path: Path | None
    manifest: Mapping[str, Any]
    program: Program | None
    weights: Mapping[str, Array]
    report: Mapping[str, Any]
    host_model: Callable[[str], bytes]
    """The model of a host operator, by file name."""
    level: Callable[[str], tuple[ModuleOp, CimContext]]
    """The module of a level and the context with its arrays; ``UsageError`` when it was not kept."""


def parts_in_memory(made: Compiled, request: CompileOptions) -> Parts:
    """The parts of a compile that was not written; without a program if it stopped earlier."""

    def level(name: str) -> tuple[ModuleOp, CimContext]:
        if name not in made.modules:
            raise UsageError(f"the compile made no level '{name}'; it has {', '.join(made.modules)}")
        return made.modules[name], made.ctx

    linked = made.linked
    models = (
        dict(zip([o.model for o in linked.program.hosts], linked.host_models, strict=True)) if linked else {}
    )
    return Parts(
        path=None,
        manifest={"options": request.record(), "model_sha256": made.model_sha256},
        program=linked.program if linked else None,
        weights={key: made.store.array(key) for key in linked.program.weights} if linked else {},
        report=build_report(made) if linked else {},
        host_model=lambda name: made.store.array(models[name]).tobytes(),
        level=level,
    )


def write_artifact(writer: ArtifactWriter, made: Compiled, request: CompileOptions) -> None:
    """Check the program and write all files of the artifact, the manifest last."""
    assert made.linked is not None
    assert made.ctx.arch is not None
    parts = parts_in_memory(made, request)
    assert parts.program is not None
    check_program(parts.program, weights=parts.weights)
    save_program(parts.program, writer.path("program"))
    writer.write_weights(parts.weights)
    for operator in parts.program.hosts:
        writer.write_bytes(f"host/{operator.model}", parts.host_model(operator.model))
    for name in ("graph", "quantised", "mapped", "isa"):
        if name in made.modules:
            writer.write_bytes(f"{IR}/{name}.mlir", print_module(made.modules[name]).encode())
    made.store.save(writer.path(f"{IR}/{STORE}"))
    writer.write_bytes("report.json", (json.dumps(parts.report, indent=1, sort_keys=True) + "\n").encode())
    writer.finish(options=request.record(), model_sha256=made.model_sha256, arch_sha256=made.ctx.arch.sha256)


def parts_on_disk(files: ArtifactFiles) -> Parts:
    """The parts of a written artifact; arrays are memory-mapped, hashes checked as files are opened."""
    program = files.program()

    def level(name: str) -> tuple[ModuleOp, CimContext]:
        file = f"{IR}/{name}.mlir"
        if not (files.folder / file).exists():
            raise UsageError(f"the artifact holds no {file}; compile again to run engine '{name}'")
        ctx = CimContext(
            store=WeightStore.load(files.path(f"{IR}/{STORE}")),
            arch=Architecture.model_validate(program.machine),
        )
        return parse_module(files.read_bytes(file).decode(), ctx, file), ctx

    return Parts(
        path=files.folder,
        manifest=files.manifest,
        program=program,
        weights=files.weights(),
        report=json.loads(files.read_bytes("report.json")),
        host_model=files.host_model,
        level=level,
    )
