"""Artifacts on disk: all or nothing when written, checked when read."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy  # pyright: ignore[reportMissingImports]  # ships no stubs

from cimc.diagnostics import UsageError
from cimc.runtime.artifact_files import ArtifactWriter, open_artifact
from cimc.runtime.program.files import signed_json
from cimc.runtime.weight_files import read_safetensors, write_safetensors


def write(target: Path, content: bytes = b"one", arch: str = "a" * 64) -> None:
    with ArtifactWriter(target) as writer:
        writer.write_bytes("host/op.onnx", content)
        writer.write_weights({"w": np.arange(6, dtype=np.int8).reshape(2, 3)})
        writer.write_bytes("ir/00-graph.mlir", b"builtin.module {}")
        writer.finish(options={"mode": "crossbar"}, model_sha256="m" * 64, arch_sha256=arch)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    """Files, weights, options and hashes come back; nothing else stands beside the artifact."""
    write(tmp_path / "net")
    files = open_artifact(tmp_path / "net", expected_arch_sha256="a" * 64, check_all=True)
    assert files.host_model("op.onnx") == b"one"
    np.testing.assert_array_equal(files.weights()["w"], [[0, 1, 2], [3, 4, 5]])
    assert files.options == {"mode": "crossbar"}
    assert (files.arch_sha256, files.model_sha256) == ("a" * 64, "m" * 64)
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


def test_two_compiles_give_equal_bytes_and_name_no_place(tmp_path: Path) -> None:
    """The manifest holds no path, time or host name."""
    write(tmp_path / "a")
    write(tmp_path / "b")
    names = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert len(names) == 4
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names)
    assert str(tmp_path).encode() not in (tmp_path / "a" / "manifest.json").read_bytes()


def test_an_artifact_is_replaced_whole(tmp_path: Path) -> None:
    """A second compile into the same folder leaves only its own files."""
    write(tmp_path / "net")
    with ArtifactWriter(tmp_path / "net") as writer:
        writer.write_bytes("new", b"two")
        writer.finish(options={}, model_sha256="m", arch_sha256="a")
    assert open_artifact(tmp_path / "net", check_all=True).names() == ("new",)
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


def interrupted(target: Path, error: type[BaseException]) -> None:
    with ArtifactWriter(target) as writer:
        writer.write_bytes("half", b"x")
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_compile_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    """Ctrl-C or an exception before ``finish``: no folder, no lock; an earlier artifact stays as it was."""
    write(tmp_path / "old")
    for name in ("new", "old"):
        with pytest.raises(error):
            interrupted(tmp_path / name, error)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert open_artifact(tmp_path / "old", check_all=True).host_model("op.onnx") == b"one"


_KILLED = """
import sys, time
from pathlib import Path
from cimc.runtime.artifact_files import ArtifactWriter
with ArtifactWriter(Path(sys.argv[1])) as writer:
    writer.write_bytes("a", b"x" * 1000)
    print("writing", flush=True)
    if sys.argv[2] == "finish":
        import os, signal
        os.rename = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
        writer.finish(options={}, model_sha256="m", arch_sha256="a")
    time.sleep(60)
"""


def start(target: Path, moment: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", _KILLED, str(target), moment], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"writing\n"
    return process


@pytest.mark.parametrize("moment", ["files", "finish"])
def test_a_killed_compile_leaves_nothing_that_loads(tmp_path: Path, moment: str) -> None:
    """Killed while writing files, or with the manifest written and before the move: no folder there loads,
    the lock it left stops nobody, and the next compile removes the remains."""
    process = start(tmp_path / "net", moment)
    if moment == "files":
        process.kill()
    assert process.wait(30) == -signal.SIGKILL
    left = list(tmp_path.iterdir())
    assert any(".tmp-" in path.name for path in left)
    for path in [*left, tmp_path / "net"]:
        with pytest.raises(UsageError):
            open_artifact(path)
    write(tmp_path / "net")
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


def test_a_second_compile_into_the_same_folder_fails_clearly(tmp_path: Path) -> None:
    """The message names the running process; the running one is not disturbed."""
    process = start(tmp_path / "net", "files")
    try:
        with pytest.raises(UsageError, match=rf"another compile .* is running \(process {process.pid}\)"):
            write(tmp_path / "net")
        assert any(".tmp-" in path.name for path in tmp_path.iterdir())
    finally:
        process.kill()
        process.wait(30)


def test_other_peoples_folders_are_not_touched(tmp_path: Path) -> None:
    """A folder with anything but an artifact, or a file, is refused; an empty folder is taken."""
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1").write_text("x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="is not an artifact"):
        write(tmp_path / "thesis")
    with pytest.raises(UsageError, match="is not a folder"):
        write(tmp_path / "file")
    with pytest.raises(UsageError, match=r"is not a folder|cannot write there"):
        write(tmp_path / "file" / "below")
    write(tmp_path / "empty")
    assert (tmp_path / "thesis" / "chapter1").read_text() == "x"


def alter(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def test_altered_artifacts_are_refused_by_file(tmp_path: Path) -> None:
    """Truncation shows on opening, a flipped byte at first use or with ``check_all``."""
    write(tmp_path / "net")
    alter(tmp_path / "net" / "host" / "op.onnx", lambda b: b"One")
    files = open_artifact(tmp_path / "net")
    with pytest.raises(UsageError, match=r"host/op\.onnx was altered"):
        files.host_model("op.onnx")
    with pytest.raises(UsageError, match=r"host/op\.onnx was altered"):
        open_artifact(tmp_path / "net", check_all=True)
    alter(tmp_path / "net" / "weights.safetensors", lambda b: b[:-1])
    with pytest.raises(UsageError, match=r"weights\.safetensors is truncated") as caught:
        open_artifact(tmp_path / "net")
    assert caught.value.exit_code == 2
    alter(tmp_path / "net" / "manifest.json", lambda b: b.replace(b"crossbar", b"wordline"))
    with pytest.raises(UsageError, match=r"manifest\.json was altered"):
        open_artifact(tmp_path / "net")


def test_the_wrong_architecture_is_refused(tmp_path: Path) -> None:
    """Both digests are in the message."""
    write(tmp_path / "net")
    with pytest.raises(UsageError, match=r"was compiled for architecture aaaaaaaaaaaa, not .* bbbbbbbbbbbb"):
        open_artifact(tmp_path / "net", expected_arch_sha256="b" * 64)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"version": [2, 0]}, r"artifact version 2\.0 is newer than 1\.0"),
        ({"version": 1}, "'version' is missing or of the wrong type"),
        ({"files": {"../secret": {"bytes": 1, "sha256": "x"}}}, "file '../secret' lies outside the artifact"),
        ({"files": {"a": {"bytes": 1}}}, "file 'a' has no size or hash"),
        ({"format": "other"}, "is not that of an artifact"),
    ],
)
def test_a_manifest_of_another_writer(tmp_path: Path, change: dict[str, object], wanted: str) -> None:
    """Correctly signed, wrong all the same: newer major version, missing entries, files elsewhere."""
    write(tmp_path / "net")
    path = tmp_path / "net" / "manifest.json"
    content = json.loads(path.read_text())
    del content["manifest_sha256"]
    path.write_bytes(signed_json({**content, **change}, "manifest_sha256"))
    with pytest.raises(UsageError, match=wanted):
        open_artifact(tmp_path / "net")


def test_ir_dumps_may_be_deleted(tmp_path: Path) -> None:
    """An artifact runs without the files for people."""
    write(tmp_path / "net")
    (tmp_path / "net" / "ir" / "00-graph.mlir").unlink()
    open_artifact(tmp_path / "net", check_all=True)


def test_the_weight_image_is_a_safetensors_file(tmp_path: Path) -> None:
    """The public library reads what we write and we read what it writes, empty and odd sizes included."""
    rng = np.random.default_rng(0)
    arrays = {
        "b": rng.integers(-128, 128, (3, 5)).astype(np.int8),
        "a": rng.integers(-9, 9, (7,)).astype(np.int16),
        "c": rng.normal(size=(2, 2)).astype(np.float32),
        "d": np.zeros((0, 4), np.int64),
    }
    write_safetensors(tmp_path / "ours", arrays)
    write_safetensors(tmp_path / "again", dict(reversed(arrays.items())))
    safetensors.numpy.save_file(arrays, tmp_path / "theirs", metadata={"k": "v"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "again").read_bytes()
    ours, theirs = read_safetensors(tmp_path / "theirs"), safetensors.numpy.load_file(tmp_path / "ours")
    for name, array in arrays.items():
        for loaded in (ours[name], theirs[name]):
            np.testing.assert_array_equal(loaded, array)
            assert loaded.dtype == array.dtype


@pytest.mark.parametrize("size", [3, 20, 60, -1])
def test_truncated_weights_are_named(tmp_path: Path, size: int) -> None:
    """Cut within the length, the header or the data."""
    write_safetensors(tmp_path / "w", {"a": np.arange(9, dtype=np.int32)})
    alter(tmp_path / "w", lambda b: b[:size])
    with pytest.raises(UsageError, match=r"^w: "):
        read_safetensors(tmp_path / "w")


def test_a_folder_one_may_not_write_to(tmp_path: Path) -> None:
    """The operating system's reason is in the message."""
    if os.geteuid() == 0:
        blocked = Path("/proc/cimc")
    else:
        blocked = tmp_path / "closed"
        blocked.mkdir(mode=0o500)
    with pytest.raises(UsageError, match="cannot write there"):
        write(blocked / "net")


def test_the_lock_is_free_again_after_each_compile(tmp_path: Path) -> None:
    """Short compiles after one another: none meets the lock of the one before, none leaves a file."""
    for round_number in range(20):
        write(tmp_path / "net", content=b"%d" % round_number)
    assert open_artifact(tmp_path / "net").host_model("op.onnx") == b"19"
    assert [path.name for path in tmp_path.iterdir()] == ["net"]
