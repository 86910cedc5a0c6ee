"""Device files: presets by name, others by path; errors with file and line before any work."""

from __future__ import annotations

from difflib import get_close_matches
from io import StringIO
from pathlib import Path

from ruamel.yaml import YAML

from cimc.configuration.located import load_located, parse_located
from cimc.diagnostics import UsageError
from cimc.runtime.device.library import DeviceModel
from cimc.runtime.device.schema import DeviceFile

PRESETS = Path(__file__).parent / "presets"


def preset_names() -> tuple[str, ...]:
    """Names that :func:`load_device` takes, sorted."""
    return tuple(sorted(path.stem for path in PRESETS.glob("*.yaml")))


def load_device(name_or_path: str | Path) -> DeviceModel:
    """The device called ``name_or_path``, or described by the YAML file of that path.

    What contains a slash or ends in ``.yaml`` or ``.yml`` is a path. Raises :class:`CimError` with exit code 2: an
    unknown name, or all problems of the file at once, each with its line.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in text or text.endswith((".yaml", ".yml")):
        return DeviceModel(load_located(Path(name_or_path), DeviceFile))
    names = preset_names()
    if text not in names:
        near = get_close_matches(text, names, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "give one of these, or the path of a YAML file"
        raise UsageError(f"no device is called '{text}'; {hint} known: {', '.join(names)}", where="device")
    return DeviceModel(load_located(PRESETS / f"{text}.yaml", DeviceFile))


def resolved_yaml(device: DeviceModel) -> str:
    """``device`` as a device file with every default written out; it loads to the same device."""
    text = StringIO()
    YAML().dump(device.file.model_dump(mode="json", exclude_none=True), text)  # keeps the order of the schema
    return text.getvalue()


def parse_device(text: str, file: str) -> DeviceModel:
    """As :func:`load_device` for YAML at hand; ``file`` is the name that messages carry."""
    return DeviceModel(parse_located(text, file, DeviceFile))
