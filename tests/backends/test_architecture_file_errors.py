"""Errors of architecture files: each names the line, the key, the rule and the given value, and exits with 2."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from cimc.backends.loader import load_architecture
from cimc.diagnostics import CimError, ExitCode

GOOD = (Path(__file__).parents[2] / "backends" / "template" / "my_chip" / "my_chip.yaml").read_text()

CORE_UNIT = GOOD[GOOD.index("  digital_unit") : GOOD.index("crossbar:\n")]


@dataclass(frozen=True)
class Bad:
    """One edit of a good file, and what must be said about it."""

    rule: str
    old: str
    new: str
    at: str
    """text that stands in the line the error must name"""
    key: str
    said: tuple[str, ...]


CASES = [
    Bad("unknown key", "rows: 256", "rowz: 256", "rowz: 256", "crossbar.rowz", ("did you mean 'rows'?",)),
    Bad("missing key", "  cell_bits: 1 # ours\n", "", "crossbar:", "crossbar.cell_bits", ("missing",)),
    Bad("missing section", GOOD[GOOD.index("network:") :], "", "name: my-chip", "network", ("missing",)),
    Bad("unit in the value", "ns: 4.0", "ns: 4ns", "4ns", "crossbar.read_latency_ns", ("'4ns'", "unit")),
    Bad("zero size", "cores: 16", "cores: 0", "cores: 0", "chip.cores", ("greater than 0", "given 0")),
    Bad("negative size", "  columns: 4", "  columns: -4", "columns: -4", "network.columns", ("given -4",)),
    Bad("negative energy", "10.0", "-1.5", "-1.5", "static_power_mw", ("given -1.5",)),
    Bad("not finite", "clock_ghz: 1.0", "clock_ghz: .inf", ".inf", "clock_ghz", ("given inf",)),
    Bad("fraction for a count", "rows: 256", "rows: 25.6", "25.6", "crossbar.rows", ("integer", "25.6")),
    Bad("quoted number", "adcs: 32", "adcs: '32'", "'32'", "crossbar.adcs", ("integer", "'32'")),
    Bad("true for a number", "adcs: 32", "adcs: true", "adcs: true", "crossbar.adcs", ("given True",)),
    Bad("yes for true", "allow_writes: true", "allow_writes: yes", "yes", "chip.allow_writes", ("'yes'",)),
    Bad("null", "rows: 256", "rows:", "  rows:", "crossbar.rows", ("given null",)),
    Bad("misspelt mode", "mode: crossbar", "mode: crosbar", "mode:", "mode", ("'crosbar'", "'crossbar'?")),
    Bad("converter too wide", "adc_bits: 7", "adc_bits: 17", "adc_bits", "crossbar.adc_bits", ("given 17",)),
    Bad("converter of 0 bits", "adc_bits: 7", "adc_bits: 0", "adc_bits", "crossbar.adc_bits", ("given 0",)),
    Bad("name with a space", "name: my-chip", "name: my chip", "name:", "name", ("'my chip'",)),
    Bad("section is a number", "chip:\n", "chip: 3\nchop:\n", "chip: 3", "chip", ("section", "given 3")),
    Bad("duplicate key", "adcs: 32", "rows: 99", "rows: 99", "crossbar.rows", ("duplicate", "line 36")),
    Bad("tag", "clock_ghz: 1.0", "clock_ghz: !x 1.0", "!x", "clock_ghz", ("tag !x",)),
    Bad("anchor", "cores: 16", "cores: &a 16", "&a", "chip.cores", ("anchors",)),
    Bad("key is a number", "cores: 16", "16: 16", "16: 16", "chip", ("keys are names", "16")),
    Bad("unknown function", "softmax: 8.0", "sofmax: 8.0", "sofmax", "sofmax", ("did you mean 'softmax'?",)),
    Bad("no default", "      default: 1.0 # ours\n", "", "energy_pj_per_element", "element", ("default",)),
    # rules over several keys
    Bad(
        "more rows at once than rows",
        "parallel_rows: 64",
        "parallel_rows: 257",
        "parallel_rows",
        "crossbar.parallel_rows",
        ("at most rows (256)", "given 257", "lower it"),
    ),
    Bad(
        "more converters than columns",
        "adcs: 32",
        "adcs: 300",
        "300",
        "crossbar.adcs",
        ("column (256)", "300"),
    ),
    Bad(
        "no weight fits",
        "columns: 256",
        "columns: 1",
        "columns: 1 ",
        "crossbar.columns",
        ("2 cells", "given 1"),
    ),
    Bad(
        "signed sums, unsigned converter",
        "twos_complement",
        "differential",
        "adc_signed",
        "crossbar.adc_signed",
        ("differential", "given false"),
    ),
    Bad(
        "flipped analog pairs",
        "twos_complement # ours\n  column_flip: false",
        "differential\n  column_flip: true",
        "column_flip",
        "crossbar.column_flip",
        ("given true",),
    ),
    Bad(
        "mesh too small", "rows: 4 ", "rows: 3 ", "rows: 3", "network.rows", ("4 x 3 = 12", "chip.cores (16)")
    ),
    Bad(
        "bus with columns", "kind: mesh", "kind: bus", "columns: 4", "network.columns", ("a bus has no", "4")
    ),
    Bad("mesh without a size", "  columns: 4 # ours\n", "", "network:", "network.columns", ("given 0",)),
    Bad(
        "buffer off the mesh",
        "hop_cycles: 2",
        "hop_cycles: 2\n  global_buffer_node: 16",
        "node: 16",
        "network.global_buffer_node",
        ("0 to 15", "given 16"),
    ),
    Bad(
        "wordline mode without groups",
        "mode: crossbar",
        "mode: wordline",
        "parallel_rows",
        "crossbar.parallel_rows",
        ("below rows (64)", "given 64"),
    ),
    Bad("core mode, several streams", "mode: crossbar", "mode: core", "core:", "core.contexts", ("given 4",)),
    Bad(
        "nothing requantises",
        CORE_UNIT,
        "",
        "core:",
        "core.digital_unit",
        ("given none", "chip.digital_unit"),
    ),
    Bad(
        "cores add digits without a unit",
        CORE_UNIT + GOOD[GOOD.index("crossbar:\n") : GOOD.index("periphery")] + "periphery",
        GOOD[GOOD.index("crossbar:\n") : GOOD.index("periphery")] + "digital_unit",
        "shift_add",
        "crossbar.shift_add",
        ("needs core.digital_unit", "given none"),
    ),
]


def _text(case: Bad) -> str:
    good = GOOD.replace("rows: 256", "rows: 64", 1) if case.rule.startswith("wordline") else GOOD
    assert case.old in good
    return good.replace(case.old, case.new, 1)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.rule)
def test_a_broken_rule_is_reported_at_its_line(case: Bad, tmp_path: Path) -> None:
    """One mistake in a good file gives an error at the line, with key, rule and value, and exit code 2."""
    text = _text(case)
    file = tmp_path / "chip.yaml"
    file.write_text(text)
    line = next(i for i, content in enumerate(text.splitlines(), 1) if case.at in content)
    with pytest.raises(CimError) as caught:
        load_architecture(file)
    assert caught.value.exit_code == ExitCode.USAGE
    [report] = [r for r in str(caught.value).splitlines() if r.startswith(f"{file}:{line}:")]
    assert case.key in report
    for part in case.said:
        assert part in report


def test_all_problems_are_reported_together_in_the_order_of_the_file(tmp_path: Path) -> None:
    """Five mistakes of five kinds give five lines, top to bottom."""
    text = GOOD
    edits = {
        "cores: 16": "cores: 0",
        "lanes: 16": "lanse: 16",
        "adcs: 32": "adcs: 999",
        "kind: mesh": "kind: ring",
    }
    for old, new in edits.items():
        assert old in text
        text = text.replace(old, new)
    text = text.replace("mode: crossbar", "mode: crossbar\nmode: core", 1)
    file = tmp_path / "chip.yaml"
    file.write_text(text)
    with pytest.raises(CimError) as caught:
        load_architecture(file)
    reports = str(caught.value).splitlines()
    keys = [
        "mode",
        "chip.cores",
        "core.digital_unit.lanes",
        "core.digital_unit.lanse",
        "crossbar.adcs",
        "network.kind",
    ]
    assert sorted(r.split(": ")[1] for r in reports) == sorted(keys)
    lines = [int(r.removeprefix(f"{file}:").split(":")[0]) for r in reports]
    assert lines == sorted(lines)


def test_the_column_is_that_of_the_value(tmp_path: Path) -> None:
    """``  cores: 0`` is wrong in column 10, where the 0 stands."""
    file = tmp_path / "chip.yaml"
    file.write_text(GOOD.replace("cores: 16", "cores: 0"))
    with pytest.raises(CimError, match=r"chip\.yaml:11:10: chip\.cores: "):
        load_architecture(file)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", ":1:1: the file is empty"),
        (b"name: a\n  mode: b\n", ":2:7: not YAML"),
        (b"a: [1, 2\nb: 3\n", ":2:2: not YAML"),
        (b"\tname: x\n", ":1:1: not YAML"),
        (b"a: *nowhere\n", ":1:4: not YAML"),
        (b"a: 1\n---\nb: 2\n", ":2:1: not YAML"),
        (b"[" * 50_000, "nested deeper"),
        (b"a: " + b"9" * 10_000, "not a number"),
        (b"name: \xff\n", "byte 6 is not UTF-8"),
        (b"- 1\n- 2\n", ":1:1: must be a section"),
        (b"a: 1\n" * 300_000, "at most 1000000"),
        (b"a: &a [x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n", "anchors"),
    ],
    ids=[
        "empty",
        "indent",
        "bracket",
        "tab",
        "alias",
        "two",
        "deep",
        "digits",
        "latin",
        "list",
        "huge",
        "bomb",
    ],
)
def test_a_file_that_is_no_description_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    """Broken, foreign and hostile files end in one message and exit code 2, whatever their size."""
    file = tmp_path / "chip.yaml"
    file.write_bytes(content)
    with pytest.raises(CimError) as caught:
        load_architecture(file)
    assert caught.value.exit_code == ExitCode.USAGE
    assert f"{file}" in str(caught.value)
    assert said in str(caught.value)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    """The path and the system's reason stand in the message."""
    with pytest.raises(CimError, match=r"nowhere\.yaml: cannot read the file: No such file"):
        load_architecture(tmp_path / "nowhere.yaml")
