"""Programs on disk: what is saved is what is loaded, and whatever was altered is refused by name."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from cimc.diagnostics import UsageError
from cimc.runtime.program.files import load_program, save_program, signed_json
from cimc.runtime.program.tables import SCHEMAS, HostOperator, IoTensor, Program


def random_program(seed: int) -> Program:
    """Tables of random content and lengths, of which some are empty: files do not look at meaning."""
    rng = np.random.default_rng(seed)
    tables = {}
    for table, schema in SCHEMAS.items():
        rows = int(rng.integers(0, 40)) if table != "events" else 0
        tables[table] = {}
        for name, spec in schema.items():
            dtype, _, width = spec.partition(":")
            shape = (rows, int(width)) if width else (rows,)
            low = 0 if dtype.startswith("uint") else -100
            tables[table][name] = rng.integers(low, 100, shape).astype(dtype)
    tensor = IoTensor("x", "in", 6, (3, 4, 5), 4, 5, 3, 5, 1, 20, 0.1, 3)
    host = HostOperator("Einsum", "einsum.onnx", (0,), (1,), ("a",), ("b",), ((1, 3),), ((1, 4),), 24)
    machine = {"chip": {"cores": 4}, "marks": ["ours", None, 1.5]}
    return Program(tables, ("conv1", "größe"), (tensor,), (host,), ("w",), machine, 2, 99, (tensor,))


def rewrite_header(folder: Path, **changes: object) -> None:
    """Change header entries and sign again, as a foreign writer would."""
    path = folder / "program.json"
    content = json.loads(path.read_text())
    del content["header_sha256"]
    path.write_bytes(signed_json({**content, **changes}, "header_sha256"))


def assert_same(a: Program, b: Program) -> None:
    assert list(b.tables) == list(SCHEMAS)
    for table, schema in SCHEMAS.items():
        assert list(b[table]) == list(schema)
        for name in schema:
            np.testing.assert_array_equal(a[table][name], b[table][name])
            assert a[table][name].dtype == b[table][name].dtype
    assert (a.names, a.io, a.hosts, a.weights, a.taps) == (b.names, b.io, b.hosts, b.weights, b.taps)
    assert (dict(a.machine), a.frames, a.total_macs) == (dict(b.machine), b.frames, b.total_macs)


@pytest.mark.parametrize("seed", range(5))
def test_a_saved_program_is_loaded_as_it_was(tmp_path: Path, seed: int) -> None:
    """Every column, name and number comes back, and columns are memory maps, not copies."""
    program = random_program(seed)
    save_program(program, tmp_path / "program")
    loaded = load_program(tmp_path / "program")
    assert_same(program, loaded)
    filled = [t for t in SCHEMAS if program.count(t)]
    assert all(isinstance(c, np.memmap) for t in filled for c in loaded[t].values())


def test_equal_programs_give_equal_bytes(tmp_path: Path) -> None:
    """No time, path or dictionary order reaches a file."""
    program = random_program(1)
    shuffled = Program(
        {table: dict(reversed(list(program[table].items()))) for table in reversed(list(program.tables))},
        program.names,
        program.io,
        program.hosts,
        program.weights,
        dict(reversed(list(program.machine.items()))),
        program.frames,
        program.total_macs,
        program.taps,
    )
    save_program(program, tmp_path / "a")
    save_program(shuffled, tmp_path / "b")
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "b").iterdir())
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names)


def test_all_bad_columns_are_reported_together(tmp_path: Path) -> None:
    """A missing, a truncated and an altered column: one error that names all three."""
    save_program(random_program(2), tmp_path)
    (tmp_path / "bodies.first.npy").unlink()
    truncated = tmp_path / "params.value.npy"
    truncated.write_bytes(truncated.read_bytes()[:-3])
    altered = tmp_path / "instructions.opcode.npy"
    altered.write_bytes(altered.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(UsageError) as caught:
        load_program(tmp_path)
    assert caught.value.exit_code == 2
    for wanted in (
        r"bodies\.first\.npy is missing",
        r"params\.value\.npy is truncated or was altered",
        r"instructions\.opcode\.npy is truncated or was altered",
    ):
        assert re.search(wanted, str(caught.value))


def test_a_newer_major_version_is_refused_by_name(tmp_path: Path) -> None:
    """Format 2.0 is not read; a newer minor version with a column unknown here is."""
    program = random_program(3)
    save_program(program, tmp_path)
    rewrite_header(tmp_path, version=[1, 7], later_key=1)
    assert_same(program, load_program(tmp_path))
    rewrite_header(tmp_path, version=[2, 0])
    with pytest.raises(UsageError, match=r"program format 2\.0 is newer than 1\.3"):
        load_program(tmp_path)
    (tmp_path / "program.json").write_text('{"format": "cimc-program", "version": [2, 1]}')
    with pytest.raises(UsageError, match=r"program format 2\.1 is newer than 1\.3"):
        load_program(tmp_path)


def test_an_altered_header_is_refused(tmp_path: Path) -> None:
    """One changed number in program.json does not go unseen."""
    save_program(random_program(3), tmp_path)
    path = tmp_path / "program.json"
    path.write_text(path.read_text().replace('"frames": 2', '"frames": 3'))
    with pytest.raises(UsageError, match=r"program\.json was altered"):
        load_program(tmp_path)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (None, "program.json is missing"),
        ("{", "program.json cannot be read"),
        ("[1]", "holds no object"),
        ("{}", "was altered"),
    ],
)
def test_a_header_that_is_none(tmp_path: Path, text: str | None, wanted: str) -> None:
    """No header, half a header, another file of that name."""
    if text is not None:
        (tmp_path / "program.json").write_text(text)
    with pytest.raises(UsageError, match=wanted):
        load_program(tmp_path)


def test_a_signed_header_with_wrong_content(tmp_path: Path) -> None:
    """A foreign writer's mistakes are named key by key."""
    save_program(random_program(3), tmp_path)
    rewrite_header(tmp_path, frames="many", surprise=1)
    with pytest.raises(UsageError, match=r"frames: .*integer"):
        load_program(tmp_path)
    rewrite_header(tmp_path, frames=1)
    with pytest.raises(UsageError, match=r"unknown keys \['surprise'\]"):
        load_program(tmp_path)


@pytest.mark.parametrize(
    ("column", "wanted"),
    [
        (np.zeros(3, np.int64), r"'bodies\.first' has type int64, not int32"),
        (np.zeros((3, 2), np.int32), r"'bodies\.first' has 2 dimensions, not 1"),
        (np.zeros(77, np.int32), r"columns of table 'bodies' differ in length: first 77"),
    ],
)
def test_a_column_of_the_wrong_form(tmp_path: Path, column: np.ndarray, wanted: str) -> None:
    """Types, dimensions and lengths follow the schema even when the hashes agree."""
    save_program(random_program(4), tmp_path)
    np.save(tmp_path / "bodies.first.npy", column)
    files = json.loads((tmp_path / "program.json").read_text())["files"]

    files["bodies.first.npy"] = hashlib.sha256((tmp_path / "bodies.first.npy").read_bytes()).hexdigest()
    rewrite_header(tmp_path, files=files)
    with pytest.raises(UsageError, match=wanted):
        load_program(tmp_path)


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    """An object array with a correct hash is refused, not executed."""

    save_program(random_program(4), tmp_path)
    np.save(tmp_path / "bodies.first.npy", np.array([print], dtype=object), allow_pickle=True)
    files = json.loads((tmp_path / "program.json").read_text())["files"]
    files["bodies.first.npy"] = hashlib.sha256((tmp_path / "bodies.first.npy").read_bytes()).hexdigest()
    rewrite_header(tmp_path, files=files)
    with pytest.raises(UsageError, match=r"bodies\.first\.npy is not a plain \.npy file"):
        load_program(tmp_path)


def test_tables_outside_the_schema_are_not_saved(tmp_path: Path) -> None:
    """Writing checks the same rules as reading, before a file exists."""
    program = random_program(5)
    tables = {**program.tables, "bodies": {"first": program["bodies"]["first"]}}
    broken = Program(tables, (), (), (), (), {})
    with pytest.raises(ValueError, match=r"'bodies\.count' is missing"):
        save_program(broken, tmp_path / "p")
    assert not (tmp_path / "p").exists()
