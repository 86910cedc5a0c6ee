"""The frame of the command line: help, errors, exit codes, colours, interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cimc.cli import entry

CIMC = (sys.executable, "-c", "from cimc.cli import main; main()")


def _no_colour() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}


def test_help_imports_nothing_heavy() -> None:
    """`cimc --help` stays quick: no torch, onnx, xdsl, numpy, pydantic, numba."""
    code = (
        "import sys\n"
        "from cimc.cli import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as left:\n    assert not left.code\n"
        "print('loaded:', sorted({name.split('.')[0] for name in sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split("loaded:")[1]
    assert "'click'" in loaded
    for heavy in ("torch", "onnx", "onnxruntime", "xdsl", "numpy", "pydantic", "numba", "ruamel", "scipy"):
        assert f"'{heavy}'" not in loaded


def test_every_command_has_help(cimc: Callable[..., Any]) -> None:
    """Each command, at both levels, explains itself and leaves with 0."""
    commands = [[name] for name in entry.cimc.commands]
    commands += [["arch", name] for name in ("list", "show", "validate", "schema")]
    commands += [["models", name] for name in ("list", "export")]
    for command in commands:
        ran = cimc(*command, "--help")
        assert ran.code == 0
        assert ran.out.startswith(f"Usage: cimc {' '.join(command)}")
        assert ran.err == ""


def test_no_command_prints_help_and_is_a_usage_error(cimc: Callable[..., Any]) -> None:
    """`cimc` alone did nothing, so it does not say 0; stdout stays empty."""
    ran = cimc()
    assert (ran.code, ran.out) == (2, "")
    assert "Commands:" in ran.err


def test_version(cimc: Callable[..., Any]) -> None:
    """The version is that of the package."""
    from importlib.metadata import version

    assert cimc("--version").out == f"cimc {version('cimc')}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chekc"], "cimc: no command is named 'chekc'; did you mean 'check'? see 'cimc --help'"),
        (["zzz"], "cimc: no command is named 'zzz'; known: arch, "),
        (["arch", "sho"], "cimc arch: no command is named 'sho'; did you mean 'show'?"),
        (["check"], "cimc check: missing argument 'MODEL'; see 'cimc check --help'"),
        (["check", "m.onnx", "--shpe", "x=1"], "cimc check: no such option '--shpe'"),
        (["check", "m.onnx", "--arch"], "option '--arch' requires an argument"),
        (["check", "m.onnx"], "no machine given; add --arch NAME or FILE"),
        (["models", "export", "digits"], "cimc models export: missing option '-o' / '--output'"),
        (
            ["models", "export", "digts", "-o", "m.onnx"],
            "no network is named 'digts'; did you mean 'digits'?",
        ),
        (["models", "export", "digits", "-o", "no/m.onnx"], "no/m.onnx: its folder does not exist"),
        (["models", "export", "digits", "-o", "."], ".: this is a folder"),
        (
            ["models", "export", "digits", "-o", "m.onnx", "--batch", "0"],
            "at least 1, or 'dynamic', given '0'",
        ),
        (
            ["models", "export", "digits", "-o", "m.onnx", "--seed", "-1"],
            "invalid value for '--seed': -1 is not",
        ),
        (["arch", "show", "isac"], "no backend is named 'isac'; did you mean 'isaac'?"),
        (["arch", "show", "zzz"], "pimcomp, puma. A file is given with its ending (.yaml, .py)"),
        (
            ["simulate", "a.cim", "--images", "99999999999"],
            "invalid value for '--images': 99999999999 is not in the",
        ),
        (
            ["compile", "m.onnx", "--arch", "isaac", "--power-cap-mw", "nan"],
            "--power-cap-mw: input should be a finite",
        ),
        (["compile", "m.onnx", "--arch", "isaac", "--power-cap-mw", "-5"], "greater than 0, given -5.0"),
        (["arch", "show", "no.yaml"], "no.yaml: cannot read the file: No such file or directory"),
        (["arch", "validate"], "cimc arch validate: missing argument 'FILES...'"),
        (["arch", "validate", "isaac"], "isaac: an architecture file ends in .yaml, .yml or .py"),
        (["disasm", "nothing"], "nothing: is not an artifact folder; compile one first"),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(
    cimc: Callable[..., Any], arguments: list[str], message: str
) -> None:
    """Usage errors of click and of ours have one format, say what to do, and leave stdout empty."""
    ran = cimc(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert len(ran.err.splitlines()) == 1
    assert message in ran.errors[0]


def _crashing(monkeypatch: pytest.MonkeyPatch, problem: BaseException) -> None:
    """``cimc backends`` raises ``problem``: errors we do not know of cannot be had otherwise."""

    def crash() -> None:
        raise problem

    monkeypatch.setattr("cimc.backends.registry.list_backends", crash)


def test_too_little_memory_is_no_fault_of_ours(
    cimc: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A request that this computer cannot hold: exit 2, the size that was asked for, no reproducer."""
    _crashing(monkeypatch, MemoryError("Unable to allocate 1.46 TiB"))
    ran = cimc("backends")
    assert (ran.code, ran.out) == (2, "")
    assert ran.errors == [
        "this computer has too little memory: Unable to allocate 1.46 TiB; ask for less at once"
    ]
    assert not list(tmp_path.glob("cimc-crash-*"))


def test_internal_error_leaves_a_reproducer(
    cimc: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A fault of ours: exit 70, one line, no traceback, and a folder that says how it came about."""
    _crashing(monkeypatch, ZeroDivisionError("division by zero"))
    ran = cimc("backends", "--json")
    assert (ran.code, ran.out) == (70, "")
    (line,) = ran.errors
    assert line.startswith("internal error: ZeroDivisionError: division by zero; ")
    assert "Traceback" not in ran.err
    (folder,) = tmp_path.glob("cimc-crash-*")
    assert str(folder) in line
    assert (folder / "command.txt").read_text() == "cimc backends --json\n"
    assert "in crash\n" in (folder / "traceback.txt").read_text()
    assert "xdsl 0." in (folder / "versions.txt").read_text()


def test_traceback_on_request(cimc: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """CIMC_TRACEBACK=1 lets the exception through, for whoever repairs it."""
    _crashing(monkeypatch, ZeroDivisionError("division by zero"))
    monkeypatch.setenv("CIMC_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        entry.main(["backends"])


def test_reproducer_holds_the_configuration(
    cimc: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Architecture files named on the command line are copied; models are not."""
    (tmp_path / "chip.yaml").write_text("name: chip\n")
    (tmp_path / "model.onnx").write_bytes(b"weights")

    def crash(path: object) -> None:
        raise KeyError("lost")

    monkeypatch.setattr("cimc.backends.registry.resolve_backend", crash)
    assert cimc("check", "model.onnx", "--arch", "chip.yaml").code == 70
    (folder,) = tmp_path.glob("cimc-crash-*")
    copied = {path.name for path in folder.iterdir()}
    assert copied == {"command.txt", "traceback.txt", "versions.txt", "chip.yaml"}


def test_ctrl_c_is_130(cimc: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Interruption is no error of anybody: one word and the shell's own code."""
    _crashing(monkeypatch, KeyboardInterrupt())
    ran = cimc("backends")
    assert (ran.code, ran.out, ran.errors) == (130, "", ["interrupted"])


def test_closed_pipe_is_quiet() -> None:
    """`cimc arch schema | head -1`: no traceback when the reader goes away."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*CIMC, "arch", "schema"], stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert done.stderr == b""
    assert done.returncode == 128 + signal.SIGPIPE


def _in_terminal(arguments: list[str], env: dict[str, str]) -> str:
    """What ``cimc`` shows when stdout and stderr are a terminal."""
    import pty

    shown, terminal = pty.openpty()
    subprocess.run([*CIMC, *arguments], stdout=terminal, stderr=terminal, env=env, check=False)
    os.close(terminal)
    text = b""
    while True:
        try:
            part = os.read(shown, 65536)
        except OSError:  # Linux: the other side is closed
            break
        if not part:
            break
        text += part
    os.close(shown)
    return text.decode()


def test_colour_on_a_terminal_only() -> None:
    """`error:` is red on a terminal, plain in a pipe and under NO_COLOR."""
    env = _no_colour()
    assert "\x1b[31m" in _in_terminal(["arch", "show", "isac"], env)
    assert "\x1b[31m" not in _in_terminal(["arch", "show", "isac"], {**env, "NO_COLOR": "1"})
    piped = subprocess.run([*CIMC, "arch", "show", "isac"], capture_output=True, env=env, check=False)
    assert piped.returncode == 2
    assert piped.stderr.startswith(b"error: no backend is named")
    assert b"\x1b" not in piped.stderr


def test_broken_backend_warns_on_stderr_and_stops_nobody(
    cimc: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A plug-in that does not load is a row, a warning, and exit 0; stdout stays JSON."""
    (tmp_path / "wreck.py").write_text("raise RuntimeError('no licence')\n")
    info = tmp_path / "wreck-2.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wreck\nVersion: 2.5\n")
    (info / "entry_points.txt").write_text("[cimc.backends]\nwreck = wreck:BACKEND\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    ran = cimc("backends", "--json")
    assert ran.code == 0
    broken = {row["name"] for row in json.loads(ran.out) if row["error"]}
    assert broken == {"wreck"}
    assert "isaac" in {row["name"] for row in json.loads(ran.out)}
    assert ran.err.startswith("warning: backend 'wreck' of wreck 2.5 cannot be used: ")
    assert "no licence" in ran.err
    assert len(ran.err.splitlines()) == 1
