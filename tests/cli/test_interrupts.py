"""Ctrl-C that a library turns into an error of its own, and one that Python drops."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from cimc.cli import entry
from cimc.diagnostics import UsageError
from cimc.frontend.onnx import submodel


def ended_with(invoke: Callable[[object], None], monkeypatch: pytest.MonkeyPatch) -> object:
    """The exit code of a command that does ``invoke``, in a process that Python has prepared for Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(entry.cimc, "invoke", invoke)
    try:
        with pytest.raises(SystemExit) as ended:
            entry.main(["arch", "list"])
    finally:
        signal.signal(signal.SIGINT, before)
    return ended.value.code


@pytest.mark.parametrize(
    "left", [UsageError("a model that cannot be read"), ImportError("initialization failed")]
)
def test_an_interrupt_stays_one(
    left: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is raised in the place of KeyboardInterrupt, the command says so and leaves with 130."""

    def interrupted(ctx: object) -> None:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise left

    assert ended_with(interrupted, monkeypatch) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_a_dropped_interrupt_comes_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An interrupt in a destructor, whose exceptions go nowhere, ends the command all the same."""

    class Left:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    def working(ctx: object) -> None:
        left = Left()
        del left
        time.sleep(30)

    assert ended_with(working, monkeypatch) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_a_runtime_that_does_not_load_is_no_fault_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what onnxruntime says of a model makes the model unsupported."""

    def broken(model: bytes) -> None:
        raise ImportError("initialization failed")

    monkeypatch.setattr(submodel, "open_session", broken)
    with pytest.raises(ImportError, match="initialization failed"):
        submodel.session_or_error(submodel.ModelProto())
