"""Device files: names, paths, and errors that name line, rule, value and remedy before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from cimc.cli.device import device as command
from cimc.diagnostics import CimError, UsageError
from cimc.runtime.device.loader import PRESETS, load_device, parse_device, preset_names, resolved_yaml

HEAD = "name: probe\ndescription: for a test\n"
CELL = "cell: {g_off_us: 1.0, g_on_us: 101.0}\n"


def test_every_preset_loads_by_its_name() -> None:
    """A preset is called what its file is called, and the ideal one is there."""
    assert "ideal" in preset_names()
    for name in preset_names():
        assert load_device(name).name == name


def test_a_path_is_a_device_too(tmp_path: Path) -> None:
    """A path or a name ending in .yaml is read as a file."""
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + CELL)
    assert load_device(path).name == load_device(str(path)).name == "probe"


def test_an_unknown_device_names_the_near_one() -> None:
    """A misspelt name is answered with the name meant and the names known."""
    with pytest.raises(UsageError, match="no device is called 'idael'; did you mean 'ideal'"):
        load_device("idael")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cell: {g_off_us: 1, g_on_us: 0.5}", "3:30: cell.g_on_us: must be above g_off_us 1, given 0.5"),
        (
            "cell: {g_off_us: 0, g_on_us: 9, levels: 1}",
            "cell.levels: must be greater than or equal to 2, given 1",
        ),
        ("cell: {g_off_us: 0, g_on_us: '9'}", "write a plain number, the unit is in the key's name"),
        (
            CELL + "programming: {gaussian: {relative: -0.1}}",
            "4:36: programming.gaussian.relative: .*given -0.1",
        ),
        (CELL + "programming: {gausian: {relative: 0.1}}", "unknown key; did you mean 'gaussian'"),
        (CELL + "programming: {gaussian: {sigma: 0.1}}", "4:26: programming.gaussian.sigma: unknown key"),
        (CELL + "programming: {}", "names no model; add one of gaussian"),
        (
            CELL + "programming:\n  gaussian: {}\n  lognormal: {sigma: 1, compensated: true}",
            "6:14: .*second model",
        ),
        (CELL + "faults: {stuck_off_probability: 0.6, stuck_on_probability: 0.6}", "sums to 1.2, at most 1"),
        (CELL + "read_scope: always", "must be 'read', 'vector', 'call' or 'frozen', given 'always'"),
        ("cell: {g_off_us: 1, g_on_us: 9, level_conductances_us: [1, 5, 4, 9]}", "ascending conductances"),
        (
            "cell: {g_off_us: 1, g_on_us: 9, level_conductances_us: [1, 8]}",
            "must go from g_off_us to g_on_us",
        ),
        (
            "cell: {g_off_us: 1, g_on_us: 9, levels: 3, level_conductances_us: [1, 9]}",
            "says 3, but .* lists 2",
        ),
    ],
)
def test_bad_files_are_refused_with_their_line(text: str, message: str) -> None:
    """Each broken rule is one message with file, line, key, given value and remedy, exit code 2."""
    with pytest.raises(CimError, match=rf"dev\.yaml:.*{message}") as error:
        parse_device(HEAD + text + "\n", "dev.yaml")
    assert error.value.exit_code == 2


def test_more_levels_than_the_cell_has_are_refused() -> None:
    """Asking a cell of four states for 3-bit digits is an error that says what fits, not a rounded weight."""
    device = parse_device(HEAD + "cell: {g_off_us: 0, g_on_us: 9, levels: 4}\n", "dev.yaml")
    assert device.targets_us(torch.arange(4), 3).tolist() == [0.0, 3.0, 6.0, 9.0]
    with pytest.raises(UsageError, match=r"has 4 levels, but digits of 8 levels .* use cell_bits 2 or less"):
        device.targets_us(torch.arange(8), 7)
    with pytest.raises(UsageError, match="two levels or more"):
        device.check_top(0)


def test_targets_are_level_conductances() -> None:
    """A level's target is g_off + level * dG, or the nearest state of a cell with states (half to even)."""
    device = parse_device(HEAD + CELL, "dev.yaml")
    assert device.step_us(4) == 25.0
    assert device.targets_us(torch.arange(5), 4).tolist() == [1.0, 26.0, 51.0, 76.0, 101.0]
    sixteen = parse_device(HEAD + "cell: {g_off_us: 0, g_on_us: 15, levels: 16}\n", "dev.yaml")
    # 3-bit digits on 16 states: level * 15 / 7 rounded, the way MemIntelli maps a slice
    assert sixteen.targets_us(torch.arange(8), 7).tolist() == [0.0, 2.0, 4.0, 6.0, 9.0, 11.0, 13.0, 15.0]
    listed = parse_device(
        HEAD + "cell: {g_off_us: 1, g_on_us: 9, level_conductances_us: [1, 2, 4, 9]}\n", "d"
    )
    assert listed.targets_us(torch.tensor([[0, 1], [2, 3]]), 3).tolist() == [[1.0, 2.0], [4.0, 9.0]]


@pytest.mark.parametrize(
    ("rest", "ideal"),
    [
        ("", True),
        ("baseline: none\n", False),
        ("programming: {gaussian: {relative: 0.1}}\n", False),
        ("faults: {stuck_on_probability: 0.1}\n", False),
        ("read_noise: {gaussian: {relative: 0.1}}\n", False),
    ],
)
def test_ideal_means_every_cell_reads_as_its_digit(rest: str, ideal: bool) -> None:
    """Anything that moves a cell from its digit, also a baseline left in, ends the exact shortcut."""
    assert parse_device(HEAD + CELL + rest, "dev.yaml").ideal is ideal


def test_the_variance_form_needs_fresh_gaussian_reads() -> None:
    """Only additive Gaussian noise drawn for every read may be sampled as one normal a conversion."""
    relative = "read_noise: {gaussian: {relative: 0.1}}\n"
    lognormal = "read_noise: {lognormal: {sigma: 0.1, compensated: true}}\n"
    assert parse_device(HEAD + CELL + relative, "d").independent_gaussian_reads
    assert not parse_device(HEAD + CELL + relative + "read_scope: vector\n", "d").independent_gaussian_reads
    assert not parse_device(HEAD + CELL + lognormal, "d").independent_gaussian_reads
    assert not parse_device(HEAD + CELL, "d").independent_gaussian_reads


@pytest.mark.parametrize("name", preset_names())
def test_a_resolved_device_loads_to_the_same(name: str) -> None:
    """Written out with every default, a device is the device it came from."""
    device = load_device(name)
    text = resolved_yaml(device)
    assert parse_device(text, name).file == device.file
    assert "read_scope:" in text


def test_the_command_line_knows_devices(tmp_path: Path) -> None:
    """`cimc device` lists every preset, shows and validates files, and reports all problems of all of them."""
    runner = CliRunner()
    listed = runner.invoke(command, ["list"])
    assert listed.exit_code == 0
    assert all(name in listed.output for name in preset_names())
    assert runner.invoke(command, ["show", "pcm"]).output == resolved_yaml(load_device("pcm"))
    good = runner.invoke(command, ["validate", str(PRESETS / "pcm.yaml")])
    assert good.output.rstrip().endswith("pcm.yaml: ok, pcm")
    paths = [tmp_path / f"{i}.yaml" for i in range(2)]
    for path in paths:
        path.write_text(HEAD + "cell: {g_off_us: -1, g_on_us: 9}\n")
    bad = runner.invoke(command, ["validate", *map(str, paths)])
    assert str(bad.exception).count("cell.g_off_us: must be greater than or equal to 0, given -1") == 2
    assert '"read_scope"' in runner.invoke(command, ["schema"]).output
