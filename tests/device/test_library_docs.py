"""docs/device-file.md names every key and every preset, and its example loads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from cimc.configuration.located import Section
from cimc.runtime.device.loader import parse_device, preset_names
from cimc.runtime.device.schema import DeviceFile, json_schema

DOC = Path(__file__).resolve().parents[2] / "docs" / "device-file.md"


def sections(annotation: Any) -> Iterator[type[Section]]:
    """Every section that a type mentions, and what those mention."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
        for field in annotation.model_fields.values():
            yield from sections(field.annotation)
        return
    for part in get_args(annotation):
        yield from sections(part)


def code_words() -> set[str]:
    """Words of the page that stand as code."""
    found = re.findall(r"```.*?```|`[^`]+`", DOC.read_text(), re.DOTALL)
    return set(re.findall(r"[\w-]+", " ".join(found)))


def test_every_key_is_documented() -> None:
    """Each key of each section stands in the document as code, and has a sentence for messages and the schema."""
    every = set(sections(DeviceFile))
    keys = {key for section in every for key in section.model_fields}
    assert sorted(keys - code_words()) == []
    silent = [
        f"{section.__name__}.{key}"
        for section in every
        for key, field in section.model_fields.items()
        if not field.description
    ]
    assert silent == []
    assert set(DeviceFile.model_fields) <= set(json_schema()["properties"])


def test_every_preset_is_documented() -> None:
    """A preset that the page does not name would have no source to look up."""
    assert sorted(set(preset_names()) - code_words()) == []


def test_the_example_loads() -> None:
    """The page's device file is one."""
    [example] = re.findall(r"```yaml\n(.*?)```", DOC.read_text(), re.DOTALL)
    device = parse_device(example, "device-file.md")
    assert device.array_columns == 128
    assert device.adc is not None
    assert device.adc.bits == 8
