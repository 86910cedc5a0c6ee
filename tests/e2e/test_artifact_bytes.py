"""Artifacts: the same bytes for the same input, nothing half-written, one compile at a time per folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import cimc
from cimc.backends.loader import resolved_yaml
from cimc.diagnostics import UsageError
from cimc.runtime.artifact_files import ArtifactWriter
from tests.fewer_cores import with_fewer_cores

Images = Callable[[str, int, int], npt.NDArray[np.float32]]
COMPILE = (
    "import sys, cimc; cimc.compile(sys.argv[1], sys.argv[2], calibration=sys.argv[3], output=sys.argv[4])"
)


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file of an artifact."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def digits(onnx_file: Callable[[str], Path], images: Images, tmp_path: Path) -> tuple[Path, Path]:
    """Model and calibration file of the digits network."""
    data = tmp_path / "calibration.npz"
    np.savez(data, x=images("digits", 8, 1))
    return onnx_file("digits"), data


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A machine of few cores for tests that compile many times."""
    path = tmp_path_factory.mktemp("machine") / "small.yaml"
    path.write_text(resolved_yaml(with_fewer_cores("isaac")))
    return str(path)


def test_two_compiles_give_the_same_bytes(digits: tuple[Path, Path], tmp_path: Path) -> None:
    """Two processes with different hash seeds write identical artifacts."""
    model, data = digits
    found: list[dict[str, bytes]] = []
    for seed in ("1", "2"):
        folder = tmp_path / f"build{seed}"
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", COMPILE, str(model), "isaac", str(data), str(folder)]
        subprocess.run(command, check=True, env=environment, timeout=300)
        found.append(bytes_of(folder))
    assert found[0].keys() == found[1].keys()
    assert [name for name in found[0] if found[0][name] != found[1][name]] == []


def test_no_machine_detail_is_in_the_artifact(digits: tuple[Path, Path], tmp_path: Path) -> None:
    """No path, host name or user of this machine stands in any file."""
    model, data = digits
    cimc.compile(model, "isaac", calibration=data, output=tmp_path / "build")
    needles = [str(tmp_path).encode(), str(Path.home()).encode(), os.uname().nodename.encode()]
    for name, content in bytes_of(tmp_path / "build").items():
        for needle in needles:
            assert len(needle) < 6 or needle not in content, (name, needle)


@pytest.fixture(scope="module")
def whole_compile_s(
    onnx_file: Callable[[str], Path], images: Images, small: str, tmp_path_factory: pytest.TempPathFactory
) -> float:
    """How long a process takes that compiles the digits network, on this machine and under its load."""
    folder = tmp_path_factory.mktemp("whole")
    np.savez(folder / "calibration.npz", x=images("digits", 8, 1))
    command = [sys.executable, "-W", "ignore", "-c", COMPILE, str(onnx_file("digits")), small]
    started = time.monotonic()
    subprocess.run(
        [*command, str(folder / "calibration.npz"), str(folder / "build")], check=True, timeout=300
    )
    return time.monotonic() - started


@pytest.mark.parametrize("share", [0.3, 0.55, 0.7, 0.8, 0.9, 0.97])
def test_a_killed_compile_leaves_no_artifact_that_loads(
    digits: tuple[Path, Path], small: str, tmp_path: Path, whole_compile_s: float, share: float
) -> None:
    """Killed after a share of its time: either the artifact is complete and loads, or loading fails clearly."""
    model, data = digits
    target = tmp_path / "build"
    command = [sys.executable, "-W", "ignore", "-c", COMPILE, str(model), small, str(data), str(target)]
    process = subprocess.Popen(command)
    time.sleep(share * whole_compile_s)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    try:
        made = cimc.load(target)
    except UsageError:
        assert not (target / "manifest.json").exists()
    else:
        assert made.program.count("instructions") > 0
    # The next compile into the same folder is not hindered by what was left.
    assert cimc.compile(model, small, calibration=data, output=target).path == target


def test_interrupt_leaves_nothing(digits: tuple[Path, Path], tmp_path: Path) -> None:
    """Ctrl-C ends with exit code 130 and leaves neither artifact nor temporary folder."""
    model, data = digits
    target = tmp_path / "out" / "build"
    target.parent.mkdir()
    command = [sys.executable, "-W", "ignore", "-c", "from cimc.cli import main; main()"]
    command += ["compile", str(model), "--arch", "isaac", "--calibration", str(data), "-o", str(target)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    while process.poll() is None and not any(target.parent.iterdir()):
        time.sleep(0.01)  # the lock is the first thing a compile writes
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in stderr
    assert [p.name for p in target.parent.iterdir() if not p.name.endswith(".lock")] == []


def test_a_second_compile_into_the_same_folder_fails(digits: tuple[Path, Path], tmp_path: Path) -> None:
    """While one compile writes, another into the same folder is refused by name."""
    model, data = digits
    target = tmp_path / "build"
    with ArtifactWriter(target), pytest.raises(UsageError, match=r"build.*another compile|another compile"):
        cimc.compile(model, "isaac", calibration=data, output=target)


def test_resume_from_every_dump_gives_the_same_program(
    digits: tuple[Path, Path], small: str, tmp_path: Path
) -> None:
    """Every dump up to the mapped level parses, and compiling from it ends in the same program."""
    model, data = digits
    whole = cimc.compile(model, small, calibration=data, dump_ir=tmp_path / "ir")
    dumps = sorted((tmp_path / "ir").glob("*.mlir"))
    assert len(dumps) >= 14
    for dump in dumps:
        if "_isa_" in dump.name:
            with pytest.raises(UsageError, match="mapped"):
                cimc.compile(dump, small, calibration=data, resume=True)
            continue
        again = cimc.compile(dump, small, calibration=data, resume=True)
        for table, columns in whole.program.tables.items():
            for column, values in columns.items():
                np.testing.assert_array_equal(
                    again.program[table][column], values, err_msg=f"{dump.name} {table}"
                )
