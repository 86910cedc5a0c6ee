"""The mapping file: defaults, overrides by node name, and errors that point at the line."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from cimc.diagnostics import CimError, ExitCode, UsageError
from cimc.mapping_options import MappingOptions, NodeOptions, Override, load_mapping


def _load(text: str, folder: Path) -> MappingOptions:
    file = folder / "mapping.yaml"
    file.write_text(text)
    return load_mapping(file)


def test_an_override_changes_the_keys_it_names_on_the_nodes_it_matches(tmp_path: Path) -> None:
    """Patterns see the whole name; of several that match, the last wins key by key."""
    mapping = _load(
        """
weight_bits: 6
copies: 2
overrides:
  - {match: "layer1.*", weight_bits: 4, copies: 3}
  - {match: "layer1.1.*", weight_bits: 8, on_array: false}
  - {match: "*.conv?", symmetric: true}
""",
        tmp_path,
    )
    assert mapping.for_node("layer1.0.conv1") == NodeOptions(4, 8, True, 3, True)
    assert mapping.for_node("layer1.1.conv1") == NodeOptions(8, 8, True, 3, False)
    assert mapping.for_node("layer1.1.down") == NodeOptions(8, 8, False, 3, False)
    assert mapping.for_node("Layer1.0.fc") == NodeOptions(6, 8, False, 2, True)


def test_without_a_file_everything_has_a_default() -> None:
    """8-bit operands, calibrated converters, min-max ranges, one copy, the machine's own network."""
    mapping = MappingOptions()
    assert mapping.for_node("conv1") == NodeOptions(8, 8, False, 1, True)
    assert (mapping.activations, mapping.converter, mapping.network) == ("auto", "calibrated", None)
    assert (mapping.calibration.method, mapping.calibration.percentile) == ("minmax", None)


def test_options_given_in_python_are_checked_like_a_file() -> None:
    """A list of overrides is welcome, a number in a string is not."""
    mapping = MappingOptions(overrides=[Override(match="fc", copies=4)])  # pyright: ignore[reportArgumentType] # a list is converted
    assert mapping.for_node("fc").copies == 4
    with pytest.raises(ValidationError):
        MappingOptions.model_validate({"copies": "4"})


def test_patterns_that_match_nothing_are_reported_with_a_near_name() -> None:
    """A misspelt pattern would otherwise change nothing in silence."""
    mapping = MappingOptions(
        overrides=(
            Override(match="conv1", copies=2),
            Override(match="covn2", copies=2),
            Override(match="x*", copies=2),
        )
    )
    with pytest.raises(UsageError, match=r"covn2, x\*; did you mean 'conv2'\?"):
        mapping.check_matches(["conv1", "conv2"])
    mapping.check_matches(["conv1", "covn2", "xyz"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("weigth_bits: 4\n", ":1:1: weigth_bits: unknown key; did you mean 'weight_bits'?"),
        ("copies: 1\nweight_bits: 17\n", ":2:14: weight_bits: must be less than or equal to 16, given 17"),
        ("weight_bits: 1\n", ":1:14: weight_bits: must be greater than or equal to 2, given 1"),
        ("copies: 0\n", ":1:9: copies: must be greater than or equal to 1, given 0"),
        ("activation_bits: 8bit\n", ":1:18: activation_bits: must be a valid integer, given '8bit'"),
        ("symmetric: yes\n", ":1:12: symmetric: must be true or false, given 'yes'"),
        ("converter: calibratd\n", "did you mean 'calibrated'?"),
        ("network: ring\n", ":1:10: network: must be 'mesh' or 'bus', given 'ring'"),
        (
            "calibration: {method: percentile}\n",
            "calibration.percentile: method percentile needs a percentile",
        ),
        (
            "calibration:\n  percentile: 99.9\n",
            ":2:15: calibration.percentile: belongs to method: percentile",
        ),
        ("calibration: {method: percentile, percentile: 40}\n", "given 40"),
        ("overrides: {match: a}\n", ":1:12: overrides: must be a list"),
        ("overrides:\n  - copies: 2\n", ":2:5: overrides[0].match: required key is missing"),
        ("overrides:\n  - match: fc\n", ":2:12: overrides[0].match: changes nothing, given match: fc alone"),
        (
            "overrides:\n  - {match: a, copies: 2}\n  - {match: b, copy: 2}\n",
            ":3:16: overrides[1].copy: unknown key",
        ),
        ("overrides:\n  - {match: '', copies: 2}\n", ":2:13: overrides[0].match"),
        (
            "overrides:\n  - 3\n",
            ":2:5: overrides[0]: must be a section of keys, indented below this one, given 3",
        ),
    ],
)
def test_a_mistake_is_reported_at_its_line(text: str, said: str, tmp_path: Path) -> None:
    """Line, column, key, rule and value; exit code 2."""
    with pytest.raises(CimError) as caught:
        _load(text, tmp_path)
    assert caught.value.exit_code == ExitCode.USAGE
    assert "mapping.yaml:" in str(caught.value)
    assert said in str(caught.value)
