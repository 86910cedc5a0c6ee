"""The mapping file: how a network is quantised and copied, with exceptions by node name.

The file is optional; every key has a default. ``docs/mapping-file.md`` shows one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, Strict, ValidationError

from cimc.configuration.located import BrokenRule, Section, load_located
from cimc.diagnostics import ErrorList, UsageError

Bits = Annotated[int, Field(ge=2, le=16)]
Copies = Annotated[int, Field(ge=1, le=2**20)]
Pieces = Annotated[int, Field(ge=1, le=256)]
Scheduler = Literal["none", "polyxb", "cim-mlc", "cim-mlc-matmul", "cimc"]
Products = Literal["auto", "digital", "arrays"]
Objective = Literal["balanced", "throughput", "latency", "energy", "peak-power"]


class Calibration(Section):
    """How the ranges of activations are chosen from the calibration data."""

    method: Literal["minmax", "percentile"] = "minmax"
    """minmax (the extremes seen) or percentile (a share of the values is clipped)"""
    percentile: Annotated[float, Field(gt=50, le=100)] | None = None
    """share of the values inside the range, in percent; only with method: percentile"""

    def broken_rules(self) -> Iterator[BrokenRule]:
        """The percentile belongs to its method."""
        if self.method == "percentile" and self.percentile is None:
            message = "method percentile needs a percentile, given none; add one, such as percentile: 99.99"
            yield BrokenRule(("percentile",), message)
        if self.method != "percentile" and self.percentile is not None:
            message = f"belongs to method: percentile, given method: {self.method}; remove one of the two"
            yield BrokenRule(("percentile",), message)


class Override(Section):
    """Exceptions for the nodes whose name matches a pattern."""

    match: Annotated[str, Field(min_length=1)]
    """pattern of ONNX node names: * any text, ? any character, [ab] one of these"""
    weight_bits: Bits | None = None
    """bits of the weights"""
    activation_bits: Bits | None = None
    """bits of the node's input"""
    symmetric: bool | None = None
    """whether the node's input has zero point 0"""
    copies: Copies | None = None
    """copies of the weights on the chip"""
    pieces: Pieces | None = None
    """pieces in which a row is computed and sent"""
    on_array: bool | None = None
    """false keeps the node off the crossbars"""

    def broken_rules(self) -> Iterator[BrokenRule]:
        """An override says something."""
        if all(getattr(self, key) is None for key in type(self).model_fields if key != "match"):
            message = f"changes nothing, given match: {self.match} alone; add a key or remove the override"
            yield BrokenRule(("match",), message)


@dataclass(frozen=True)
class NodeOptions:
    """The options of one node, defaults and overrides merged."""

    weight_bits: int
    activation_bits: int
    symmetric: bool
    copies: int
    on_array: bool
    pieces: int | None = None


class MappingOptions(Section):
    """All options of a mapping; ``MappingOptions()`` is what holds without a file."""

    weight_bits: Bits = 8
    """bits of the weights of array operators, 2 to 16"""
    activation_bits: Bits = 8
    """bits of activation codes, 2 to 16"""
    activations: Literal["all", "arrays", "auto"] = "auto"
    """edges that hold codes: all, inputs of array operators only, or chosen by the kind of network"""
    symmetric: bool = False
    """whether activation codes have zero point 0"""
    calibration: Calibration = Field(default_factory=Calibration)
    """section of the calibration"""
    scheduler: Scheduler | None = None
    """who chooses the copies of array operators: none (`copies` says), polyxb, cim-mlc(-matmul), or cimc; absent: cimc,
    but none where `copies` is given"""
    objective: Objective = "balanced"
    """what scheduler cimc works for: balanced, throughput, latency, energy, or peak-power"""
    power_cap_mw: Annotated[float, Field(gt=0)] | None = None
    """power that arrays active together may draw, static power included; scheduler cimc only"""
    stagger: bool | None = None
    """whether blocks of reads take turns so that the peak power falls; absent: with objective: peak-power"""
    stagger_slack: Annotated[float, Field(ge=0, le=1)] = 0.02
    """share of its time that the staggered run may take more"""
    stagger_images: Annotated[int, Field(ge=1, le=1024)] = 8
    """images of the run whose peak is lowered"""
    stagger_limit_mw: Annotated[float, Field(gt=0)] | None = None
    """power that blocks of reads may draw at once, without static power; absent: the lowest peak within the slack"""
    copies: Copies | None = None
    """copies of the weights of every array operator, 1 if absent; with scheduler: none"""
    pieces: Pieces | None = None
    """pieces in which rows are computed and sent; absent: as many as shorten the latency, with scheduler: cimc"""
    converter: Literal["full", "calibrated"] = "calibrated"
    """steps of converters that can lose information: the full range of sums, or calibrated"""
    products: Products = "auto"
    """who multiplies two activations: digital units, arrays written for every image, or the quicker by closed form"""
    network: Literal["mesh", "bus"] | None = None
    """kind of network to compile for; absent: the machine's own"""
    # A list in Python is as good as the tuple that a file gives; the items stay strict.
    overrides: Annotated[tuple[Override, ...], Strict(False)] = ()
    """exceptions by node name; of several that match, the last wins key by key"""

    def broken_rules(self) -> Iterator[BrokenRule]:
        """A number of copies for all and a scheduler exclude each other; objectives are those of ours."""
        if self.scheduler not in (None, "none") and self.copies is not None:
            message = f"belongs to scheduler: none, given scheduler: {self.scheduler}; remove one of the two"
            yield BrokenRule(("copies",), message)
        if not self.staggers:
            for key in sorted(
                {"stagger_slack", "stagger_images", "stagger_limit_mw"} & self.model_fields_set
            ):
                yield BrokenRule((key,), "belongs to stagger: true, which is off; add it or remove the key")
        if self.chosen_scheduler == "cimc":
            return
        for key in sorted({"objective", "power_cap_mw"} & self.model_fields_set):
            message = f"belongs to scheduler: cimc, given {self.chosen_scheduler}; remove one of the two"
            yield BrokenRule((key,), message)

    @property
    def staggers(self) -> bool:
        """Whether blocks of reads take turns: as said, else where peak power is the objective."""
        return self.objective == "peak-power" if self.stagger is None else self.stagger

    @property
    def chosen_scheduler(self) -> Scheduler:
        """The scheduler that runs: the one given, else ours where no number of copies is given for all."""
        if self.scheduler is not None:
            return self.scheduler
        return "cimc" if self.copies is None else "none"

    def named_copies(self, name: str) -> int | None:
        """The copies that the last matching override names for the node called ``name``; ``None`` without one."""
        named = [o.copies for o in self.overrides if o.copies is not None and fnmatchcase(name, o.match)]
        return named[-1] if named else None

    def for_node(self, name: str) -> NodeOptions:
        """The options of the node called ``name`` (its ONNX name)."""
        values: dict[str, Any] = {
            "weight_bits": self.weight_bits,
            "activation_bits": self.activation_bits,
            "symmetric": self.symmetric,
            "copies": self.copies or 1,
            "on_array": True,
            "pieces": self.pieces,
        }
        for override in self.overrides:
            if fnmatchcase(name, override.match):
                values |= override.model_dump(exclude={"match"}, exclude_none=True)
        return NodeOptions(**values)

    def check_matches(self, names: Iterable[str]) -> None:
        """Raise :class:`UsageError` (exit 2) for patterns that match none of the node ``names``."""
        known = sorted(set(names))
        idle = [o.match for o in self.overrides if not any(fnmatchcase(name, o.match) for name in known)]
        if not idle:
            return
        near = get_close_matches(idle[0], known, n=1, cutoff=0.4)
        hint = f"did you mean '{near[0]}'?" if near else f"the model has {len(known)} named nodes"
        raise UsageError(f"overrides match no node of the model: {', '.join(idle)}; {hint}")


def replaced(options: MappingOptions, given: Mapping[str, Any]) -> MappingOptions:
    """``options`` with the values of a command line; ``None`` leaves what the options say.

    Raises :class:`UsageError` (exit 2) for a value that breaks a rule, alone or together with the options.
    """
    values = {key: value for key, value in given.items() if value is not None}
    if not values:
        return options
    try:
        return MappingOptions.model_validate(options.model_dump(exclude_unset=True) | values)
    except ValidationError as error:
        problems = [UsageError(_problem(found["loc"], found["msg"], values)) for found in error.errors()]
        raise problems[0] if len(problems) == 1 else ErrorList(problems) from error


def _problem(place: tuple[int | str, ...], message: str, values: Mapping[str, Any]) -> str:
    """A broken rule with the option it is about and the value given; rules over several keys name them themselves."""
    if not place:
        return message
    key = str(place[0])
    return f"--{key.replace('_', '-')}: {message[:1].lower()}{message[1:]}, given {values.get(key)}"


def load_mapping(path: str | Path) -> MappingOptions:
    """The mapping file ``path``.

    Raises :class:`CimError` with exit code 2: every problem of the file at once, each as
    ``file:line:column: key: rule, given value; remedy``.
    """
    return load_located(Path(path), MappingOptions)
