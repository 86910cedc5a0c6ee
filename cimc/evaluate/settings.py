"""Settings by key: ``time_s`` (seconds since programming), ``without`` (a section taken out of the device file),
``digital`` (stages off the arrays), or dotted, ``device.read_noise.gaussian.sigma``, ``arch.crossbar.adc_bits``.

A setting replaces one value of the device file or of the architecture file; the whole is validated again, so an
impossible value is the error that the file would give.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from cimc.backends.loader import resolved_yaml
from cimc.backends.schema import Architecture
from cimc.configuration.located import parse_located
from cimc.diagnostics import UsageError
from cimc.runtime.device.library import DeviceModel
from cimc.runtime.device.loader import parse_device

Value = float | int | str | bool
Settings = tuple[tuple[str, Value], ...]
"""Key and value pairs, sorted by key: hashable, and equal whatever the order they were given in."""

ARCH, DEVICE = "arch.", "device."
TIME, WITHOUT, DIGITAL = "time_s", "without", "digital"
PLAIN = (TIME, WITHOUT)
"""Settings of an axis that are neither the device's nor the machine's."""

EFFECTS = ("programming", "drift", "faults", "read_noise", "wires", "current", "dac", "adc")
"""Sections of a device file that an ablation takes out."""
NOTHING = "none"
"""Of ``without``: the device as it is."""


def parse_axis(text: str) -> tuple[str, tuple[Value, ...]]:
    """``KEY=V1,V2,...`` as a key and its values, each read as a YAML scalar. Raises ``UsageError``."""
    key, equals, listed = text.partition("=")
    key = key.strip()
    if not equals or not (key in PLAIN or key.startswith((ARCH, DEVICE))):
        raise UsageError(
            f"an axis is KEY=V1,V2,... with a key of {', '.join(PLAIN)}, {DEVICE}..., {ARCH}..., given '{text}'",
            where="--sweep",
        )
    values = tuple(_scalar(key, part.strip()) for part in listed.split(","))
    if len(set(values)) != len(values):
        raise UsageError(f"'{key}' has a value twice in '{listed}'; give each once", where="--sweep")
    return key, values


def _scalar(key: str, text: str) -> Value:
    try:
        value: Any = YAML(typ="safe").load(text)
    except YAMLError:
        value = None
    if not isinstance(value, float | int | str):
        raise UsageError(f"'{key}' has the value '{text}', which is no number or word", where="--sweep")
    return value


def device_with(device: DeviceModel, settings: Mapping[str, Value]) -> DeviceModel:
    """``device`` with the settings below ``device.``; raises ``CimError`` naming the key that is wrong."""
    own = _below(settings, DEVICE)
    dropped = str(settings.get(WITHOUT, NOTHING))
    if not own and dropped == NOTHING:
        return device
    data = device.file.model_dump(mode="json", exclude_none=True)
    if dropped != NOTHING:
        _drop(data, dropped, device.name)
    text = _changed(data, own)
    return parse_device(text, f"device {device.name} with {_shown(own)}")


def _drop(data: dict[str, Any], section: str, name: str) -> None:
    """Take one effect out of a device file: what is left out is ideal."""
    there = [key for key in EFFECTS if key in data]
    if section not in there:
        raise UsageError(
            f"the device '{name}' has no section '{section}' to go without; it has {', '.join(there) or 'none'} "
            f"('{NOTHING}' keeps all)",
            where=WITHOUT,
        )
    del data[section]
    if section == "drift":
        data.pop("drift_compensation", None)


def arch_with(arch: Architecture, settings: Mapping[str, Value]) -> Architecture:
    """``arch`` with the settings below ``arch.``; raises ``CimError`` naming the key that is wrong."""
    own = _below(settings, ARCH)
    if not own:
        return arch
    data: Any = YAML(typ="safe").load(resolved_yaml(arch))
    return parse_located(_changed(data, own), f"machine {arch.name} with {_shown(own)}", Architecture)


def settings_of(settings: Mapping[str, Value]) -> Settings:
    """``settings`` in their canonical order."""
    return tuple(sorted(settings.items()))


def arch_settings(settings: Settings) -> Settings:
    """Those that change the machine, so that the model must be compiled again."""
    return tuple((key, value) for key, value in settings if key.startswith(ARCH))


def _below(settings: Mapping[str, Value], prefix: str) -> dict[str, Value]:
    return {k.removeprefix(prefix): v for k, v in settings.items() if k.startswith(prefix)}


def _changed(data: dict[str, Any], settings: Mapping[str, Value]) -> str:
    for key, value in settings.items():
        *path, last = key.split(".")
        _section(data, path, key)[last] = value
    text = StringIO()
    YAML().dump(data, text)
    return text.getvalue()


def _section(data: dict[str, Any], path: Sequence[str], key: str) -> dict[str, Any]:
    for name in path:
        inner = data.setdefault(name, {})
        if not isinstance(inner, dict):
            raise UsageError(
                f"'{key}' goes through '{name}', which is a value and not a section", where="--sweep"
            )
        data = inner
    return data


def _shown(settings: Mapping[str, Value]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(settings.items()))
