"""The documents of the two file formats name every key, and their examples load."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cimc.backends.protocol import Backend
from cimc.backends.schema import Architecture, Chip, Core, Crossbar, DigitalUnit, Host, HostLink, Network
from cimc.configuration.located import parse_located
from cimc.mapping_options import Calibration, MappingOptions, Override

DOCS = Path(__file__).parents[2] / "docs"
ARCHITECTURE = (Architecture, Chip, Core, Crossbar, DigitalUnit, Host, HostLink, Network)
MAPPING = (MappingOptions, Calibration, Override)


@pytest.mark.parametrize(
    ("file", "sections"), [("architecture-file.md", ARCHITECTURE), ("mapping-file.md", MAPPING)]
)
def test_every_key_is_documented(file: str, sections: tuple[type[Architecture], ...]) -> None:
    """Each key of each section stands in the document as code."""
    text = (DOCS / file).read_text()
    keys = {key for section in sections for key in section.model_fields}
    documented = set(re.findall(r"\w+", " ".join(re.findall(r"```.*?```|`[^`]+`", text, re.DOTALL))))
    assert sorted(keys - documented) == []


def test_the_example_of_a_mapping_file_loads() -> None:
    """It sets every key that goes with a scheduler, so that no key can vanish unnoticed; `copies` excludes one."""
    [example] = re.findall(r"```yaml\n(.*?)```", (DOCS / "mapping-file.md").read_text(), re.DOTALL)
    options = parse_located(example, "mapping.yaml", MappingOptions)
    assert options.model_fields_set == set(MappingOptions.model_fields) - {"copies"}
    assert options.for_node("layer1.0.conv1").weight_bits == 4
    assert not options.for_node("layer2.0.downsample.0").on_array


def test_every_member_of_the_interface_is_documented() -> None:
    """The table of docs/backends.md has a row for each member of the protocol."""
    rows = re.findall(r"^\| `(\w+)", (DOCS / "backends.md").read_text(), re.MULTILINE)
    members = {name for name in vars(Backend) if not name.startswith("_")}
    assert members
    assert members <= set(rows)
