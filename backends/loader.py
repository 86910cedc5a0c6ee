"""Machines by name or file, and the JSON Schema that editors check such files against."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from cimc.backends.registry import resolve_backend
from cimc.backends.schema import Architecture


def load_architecture(name_or_path: str | Path) -> Architecture:
    """The machine of a registered backend, a backend's ``.py`` file, or an architecture ``.yaml`` file.

    Raises :class:`CimError` with exit code 2: an unknown name, or every problem of the file at once, each as
    ``file:line:column: key: rule, given value; remedy``.
    """
    return resolve_backend(name_or_path).architecture()


def resolved_yaml(arch: Architecture) -> str:
    """``arch`` as an architecture file with every default written out; it loads to the same machine."""
    text = StringIO()
    YAML().dump(arch.model_dump(mode="json", exclude_none=True), text)  # keeps the order of the schema
    return text.getvalue()


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of an architecture file.

    Rules over several keys are not in it; ``cimc arch validate`` checks them too.
    """
    schema = Architecture.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "cimc architecture",
    }
