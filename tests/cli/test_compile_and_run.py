"""`compile`, `run`, `simulate`, `disasm` as a user types them."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from cimc.runtime.artifact_files import ArtifactWriter, open_artifact
from cimc.runtime.program.assembler import assemble

Cimc = Callable[..., Any]
CIMC = (sys.executable, "-c", "from cimc.cli import main; main()")


def _images(built: Any, count: int) -> npt.NDArray[np.float32]:
    """The brightest images of the calibration."""
    with np.load(built.calibration) as data:
        return data["x"][-count:]


def _compile(built: Any, *more: str) -> list[str]:
    given = ("--calibration", str(built.calibration), "--shape", "x=1,3,6,6")
    return ["compile", str(built.model), "--arch", "isaac", *given, *more]


def _files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_compile_prints_the_artifact_and_nothing_else(cimc: Cimc, built: Any, tmp_path: Path) -> None:
    """stdout is the folder's name, for `$(...)`; the default name is the model's; stderr is empty."""
    ran = cimc(*_compile(built))
    assert (ran.code, ran.out, ran.err) == (0, "small.cim\n", "")
    open_artifact(tmp_path / "small.cim", check_all=True)


def test_two_compiles_give_the_same_bytes(cimc: Cimc, built: Any, tmp_path: Path) -> None:
    """Also from another folder, and over an artifact that is there already."""
    for _ in range(2):
        assert cimc(*_compile(built, "-o", "again.cim")).code == 0
    assert _files(tmp_path / "again.cim") == _files(built.artifact)


def test_an_artifact_for_a_bus_runs_on_the_machine_it_was_made_for(cimc: Cimc, built: Any) -> None:
    """`--network bus` is recorded, so that the machine's name still says which one is meant; another is refused."""
    assert cimc(*_compile(built, "-o", "bus.cim", "--network", "bus")).code == 0
    assert cimc("simulate", "bus.cim", "--arch", "isaac").code == 0
    ran = cimc("simulate", "bus.cim", "--arch", "puma")
    assert ran.code == 2
    assert "was compiled for architecture" in ran.errors[0]


def test_stagger_is_an_option_of_compile(cimc: Cimc, built: Any, tmp_path: Path) -> None:
    """`--stagger` makes blocks of reads take turns within `--stagger-slack`, which alone means nothing."""
    assert cimc(*_compile(built, "-o", "turns.cim", "--stagger", "--stagger-slack", "0.2")).code == 0
    said = json.loads((tmp_path / "turns.cim" / "report.json").read_text())["stagger"]
    assert said["slack"] == 0.2
    assert said["after"]["peak_power_mw"] < said["before"]["peak_power_mw"]
    assert said["after"]["cycles"] <= 1.2 * said["before"]["cycles"]
    assert cimc("verify", "turns.cim", "--static").code == 0
    ran = cimc(*_compile(built, "--stagger-slack", "0.2"))
    assert ran.code == 2
    assert "belongs to stagger: true" in ran.errors[0]


def test_timing_names_every_pass_on_stderr(cimc: Cimc, built: Any) -> None:
    """A table whose last line is the sum; stdout stays the artifact's name."""
    ran = cimc(*_compile(built, "-o", "timed.cim", "--timing"))
    header, *rows = (line.split() for line in ran.err.splitlines())
    assert header == ["pass", "seconds"]
    seconds = {name: float(value) for name, value in rows}
    assert {"graph-fold-batch-norm", "map-stages", "place-contexts", "total"} <= set(seconds)
    total = seconds.pop("total")
    assert total == pytest.approx(sum(seconds.values()), abs=0.001 * len(seconds))
    assert len(ran.out.splitlines()) == 1


def test_dumps_are_numbered_and_resume_gives_the_same_program(cimc: Cimc, built: Any, tmp_path: Path) -> None:
    """`--dump-ir` sorts, and a compile that goes on from level 3 ends in the same instructions."""
    assert cimc(*_compile(built, "-o", "a.cim", "--dump-ir")).code == 0
    dumps = sorted((tmp_path / "small-ir").glob("*.mlir"))
    assert [path.name[:3] for path in dumps] == [f"{n:03d}" for n in range(len(dumps))]
    assert dumps[0].name == "000_imported_import.mlir"
    mapped = next(path for path in dumps if path.name.endswith("_place-contexts.mlir"))
    resumed = cimc("compile", mapped, "--arch", "isaac", "--resume", "-o", "b.cim")
    assert resumed.code == 0, resumed.err
    programs = [_files(tmp_path / name / "program") for name in ("a.cim", "b.cim")]
    assert programs[0] == programs[1]


def test_stop_after_writes_dumps_and_no_artifact(cimc: Cimc, built: Any, tmp_path: Path) -> None:
    """stdout names the folder of the dumps; the last of them is of the level asked for."""
    ran = cimc(*_compile(built, "--stop-after", "quantised", "--dump-ir=dumps"))
    assert (ran.code, ran.out) == (0, "dumps\n")
    assert sorted((tmp_path / "dumps").glob("*.mlir"))[-1].name[3:].startswith("_quantised_")
    assert {path.name for path in tmp_path.iterdir()} == {"dumps"}


def test_run_writes_outputs_codes_and_taps(cimc: Cimc, built: Any, tmp_path: Path) -> None:
    """Outputs by name are close to onnxruntime's; `tap:` and `integer:` stand beside them."""
    np.savez(tmp_path / "in.npz", x=_images(built, 3))
    ran = cimc("run", built.artifact, "--input", "in.npz", "--output", "out.npz", "--tap", "r")
    assert ran.code == 0, ran.err
    with np.load(tmp_path / "out.npz") as found:
        arrays = {name: found[name] for name in found.files}
    assert set(arrays) == {"y", "p", "integer:p", "tap:r"}
    session = onnxruntime.InferenceSession(str(built.model), providers=["CPUExecutionProvider"])
    for name in ("y", "p"):
        expected = np.asarray(session.run([name], {"x": _images(built, 3)})[0])
        spread = np.ptp(expected, axis=0).max()
        assert spread > 0.1
        np.testing.assert_allclose(arrays[name], expected, atol=spread / 5)
    assert arrays["integer:p"].dtype == np.uint8
    assert "macs on the arrays:" in ran.out
    assert "(100.00%)" in ran.out


def test_engines_agree_on_the_codes(cimc: Cimc, built: Any, tmp_path: Path) -> None:
    """The stream, walked one digit at a time, and the interpreter of level 2 give the same integers."""
    np.savez(tmp_path / "in.npz", x=_images(built, 2))
    found: list[npt.NDArray[Any]] = []
    for more in ([], ["--walk"], ["--engine", "quantised"]):
        target = ("--output", "out.npz", "--tap", "r", *more)
        assert cimc("run", built.artifact, "--input", "in.npz", *target).code == 0
        with np.load(tmp_path / "out.npz") as out:
            found.append(out["tap:r"])
    assert len(np.unique(found[0])) >= 16
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_run_output_has_the_same_bytes_twice(cimc: Cimc, built: Any, tmp_path: Path) -> None:
    """No time of day in the zip; nothing else is left in the folder."""
    np.savez(tmp_path / "in.npz", x=_images(built, 1))
    for name in ("a.npz", "b.npz"):
        assert cimc("run", built.artifact, "--input", "in.npz", "--output", name).code == 0
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"in.npz", "a.npz", "b.npz"}


def test_run_json(cimc: Cimc, built: Any, tmp_path: Path) -> None:
    """The summary for programs: shapes, products on the arrays (counted by hand), instructions."""
    np.savez(tmp_path / "in.npz", x=_images(built, 2))
    ran = cimc("run", built.artifact, "--input", "in.npz", "--output", "out.npz", "--json")
    summary = json.loads(ran.out)
    assert summary["arrays"]["y"] == {"shape": [2, 4], "type": "float32"}
    assert summary["array_macs"] == summary["total_macs"] == 2 * (36 * 27 * 8 + 8 * 4)


def test_simulate(cimc: Cimc, built: Any, tmp_path: Path) -> None:
    """Components of the energy add up, the trace is JSON, and more images take more cycles."""
    few = json.loads(cimc("simulate", built.artifact, "--images", "8", "--json").out)
    ran = cimc("simulate", built.artifact, "--images", "24", "--json", "--trace", "t.json")
    many = json.loads(ran.out)
    assert many["cycles"] > few["cycles"]
    assert many["cycles"] - few["cycles"] == pytest.approx(
        16 * many["achieved"]["steady_interval_cycles"], rel=0.1
    )
    assert sum(many["energy_pj"].values()) == pytest.approx(many["total_energy_pj"])
    assert len(json.loads((tmp_path / "t.json").read_text())["traceEvents"]) > 10
    table = cimc("simulate", built.artifact, "--images", "24").out
    assert str(many["cycles"]) in table.split()


def test_disasm_reads_back(cimc: Cimc, built: Any) -> None:
    """The assembler turns the text into the artifact's own tables."""
    program = assemble(cimc("disasm", built.artifact).out)
    expected = open_artifact(built.artifact).program()
    for table, columns in expected.tables.items():
        for name, column in columns.items():
            assert np.array_equal(program[table][name], column), f"{table}.{name}"


def test_disasm_of_one_body(cimc: Cimc, built: Any) -> None:
    """Only that body, and an unknown one is answered with the names there are."""
    whole = cimc("disasm", built.artifact).out
    part = cimc("disasm", built.artifact, "--body", "fc.main.4", "--no-contexts")
    assert part.code == 0, part.err
    assert "read_row" in part.out
    assert set(part.out.splitlines()) <= set(whole.splitlines())
    assert "there are " in cimc("disasm", built.artifact, "--body", "conv9").errors[0]


def test_a_model_without_products_warns_or_is_refused(cimc: Cimc, tmp_path: Path) -> None:
    """All on the host compiles with a warning; `--require-arrays` makes it exit 1."""
    import onnx
    from onnx import TensorProto, helper

    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Atan", ["x"], ["y"])], "g", info[:1], info[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, tmp_path / "host.onnx")
    np.savez(tmp_path / "c.npz", x=np.zeros((2, 4), np.float32))
    command = ["compile", "host.onnx", "--arch", "isaac", "--calibration", "c.npz"]
    ran = cimc(*command)
    assert ran.code == 0, ran.err
    assert "warning: no operator of the model runs on the arrays" in ran.err
    refused = cimc(*command, "--require-arrays", "-o", "other.cim")
    assert refused.code == 1
    assert "(--require-arrays)" in refused.errors[0]
    assert not (tmp_path / "other.cim").exists()


def test_random_calibration_warns(cimc: Cimc, built: Any) -> None:
    """Without data the compile says on stderr what that costs; stdout stays clean."""
    ran = cimc("compile", built.model, "--arch", "isaac", "--shape", "x=1,3,6,6")
    assert ran.code == 0
    assert ran.err.startswith("warning: no calibration data given")
    assert len(ran.out.splitlines()) == 1


def test_two_compiles_at_once_do_not_mix(cimc: Cimc, built: Any, tmp_path: Path) -> None:
    """The second into the same folder says so and exits 2; it leaves the first alone."""
    with ArtifactWriter(tmp_path / "out.cim") as first:
        ran = cimc(*_compile(built, "-o", "out.cim"))
        assert first.folder.is_dir()
    assert (ran.code, ran.out) == (2, "")
    assert "another compile into this folder is running (process " in ran.errors[0]


def test_progress_appears_on_a_terminal_only(cimc: Cimc, built: Any, tmp_path: Path) -> None:
    """The pass that was last done, on one line of stderr that is cleared at the end; nothing in a pipe."""
    assert cimc(*_compile(built, "-o", "a.cim")).err == ""
    shown, terminal = pty.openpty()
    command = [*CIMC, *_compile(built, "-o", "b.cim")]
    done = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=terminal, check=True)
    os.close(terminal)
    text = os.read(shown, 1 << 16).decode()
    os.close(shown)
    assert done.stdout == b"b.cim\n"
    assert "\r\x1b[Kplace-contexts " in text
    assert text.endswith("\r\x1b[K")


def _stopped(
    command: list[Any], folder: Path, env: dict[str, str], by: signal.Signals
) -> tuple[int, bytes, bytes]:
    """A compile that gets a signal on its way: exit status, stdout and stderr."""
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
    deadline = time.monotonic() + 60
    while not list(folder.glob("out.cim.tmp-*")) and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.1)  # into the compile, past the instant in which the folder is made
    process.send_signal(by)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_compile_leaves_no_artifact(
    built: Any, tmp_path: Path, signal_number: signal.Signals
) -> None:
    """Ctrl-C removes what was written and says 130; after a kill nothing loads, and the next compile cleans up."""
    command = [*CIMC, *_compile(built, "-o", "out.cim")]
    path = os.pathsep.join(path for path in sys.path if path)
    env = {**os.environ, "PYTHONPATH": path, "PYTHONFAULTHANDLER": "1"}
    code, out, err = _stopped(command, tmp_path, env, signal_number)
    assert out == b""
    assert not (tmp_path / "out.cim").exists()
    if signal_number == signal.SIGINT:
        # Python ends itself by the signal where that came while it ran a string, as dataclasses do: a shell says 130.
        assert code in (130, -signal.SIGINT), err.decode()
        assert err.endswith(b"error: interrupted\n")
        assert list(tmp_path.iterdir()) == []
        return
    assert code == -signal.SIGKILL
    (half,) = tmp_path.glob("out.cim.tmp-*")
    refused = subprocess.run([*CIMC, "disasm", half], cwd=tmp_path, capture_output=True, env=env, check=False)
    assert refused.returncode == 2
    subprocess.run(command, cwd=tmp_path, capture_output=True, env=env, check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out.cim"]
