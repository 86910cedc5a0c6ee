"""Every pass of the pipeline, damaged once, is caught at that pass and at the operation that was damaged."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from xdsl.dialects.builtin import ModuleOp

from cimc.backends.schema import Architecture
from cimc.dialects.context import CimContext
from cimc.mapping_options import MappingOptions
from cimc.pipeline import pipeline
from cimc.runtime.program import Program
from cimc.verification import verify
from tests.verification.faults import FAULTS, Fault

Frames = dict[str, npt.NDArray[np.float32]]

PASSES = {step.run.name for step in pipeline(MappingOptions())} | {"import", "lower-bodies"}


@pytest.mark.parametrize(
    "fault", [f for f in FAULTS if f.after in PASSES], ids=lambda fault: f"{fault.after}: {fault.says}"
)
def test_a_fault_is_reported_where_it_is(
    fault: Fault, network: onnx.ModelProto, frames: Frames, request: pytest.FixtureRequest
) -> None:
    """The first failing check is that of the damaged pass and names the damaged operation."""
    planted: list[str] = []

    def tamper(name: str, target: ModuleOp | Program, ctx: CimContext) -> None:
        if name == fault.after:
            planted.append(name)
            fault.plant(target, ctx)

    arch: Architecture = request.getfixturevalue(fault.machine)
    report = verify(network, arch, inputs=frames, tamper=tamper)
    assert planted == [fault.after]
    assert not report.ok
    failure = report.first_failure
    assert failure is not None
    assert (failure.after, failure.operation) == (fault.after, fault.operation), failure.message
    assert failure is report.checks[-1]
    assert failure.message
    assert f"FAILED after {fault.after}" in report.text()


def test_every_pass_has_a_fault() -> None:
    """A pass that joins the pipeline needs a fault here."""
    assert {fault.after for fault in FAULTS} >= PASSES


@pytest.mark.parametrize("machine", ["lossless", "lossy"])
def test_without_a_fault_every_check_passes(
    machine: str, network: onnx.ModelProto, frames: Frames, request: pytest.FixtureRequest
) -> None:
    """The same network undamaged: all checks pass on both machines, and all work is done by the arrays."""
    seen: list[str] = []
    arch: Architecture = request.getfixturevalue(machine)
    report = verify(network, arch, inputs=frames, tamper=lambda name, target, ctx: seen.append(name))
    assert report.ok, report.text()
    assert set(seen) == PASSES
    assert report.array_macs == report.total_macs > 0
    assert report.host_share == 0
    verdicts: dict[str, Any] = {check.after: check.verdict for check in report.checks}
    assert (verdicts["calibrate-converters"] == "distance") == (machine == "lossy")
    assert verdicts["place-contexts"] == verdicts["lower-bodies"] == "equal"
