"""Options of single layers, by glob over node and tensor names.

An override travels as text in a pass's options, so that a pipeline can be printed and read back:
``"weight_bits=4 activation_bits=6 symmetric=true : /layer1/*"``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase

from cimc.diagnostics import CimError, UsageError, raise_all
from cimc.dialects.base import located
from cimc.dialects.graph import DequantizeOp, ProductOperation, tensor_names
from cimc.dialects.graph_types import MAX_BITS, MIN_BITS
from cimc.dialects.locations import short_name
from cimc.passes.quantise.encodings import Encoding

_SWITCHES = {"true": True, "false": False}


@dataclass(frozen=True)
class QuantOverride:
    """Options of the layers whose node name or output tensor matches ``layers``; ``None`` leaves one as it is.

    Activation options say how the layer takes its input.
    """

    layers: str
    """Glob over names (``*``, ``?``, ``[...]``), case sensitive."""
    weight_bits: int | None = None
    activation_bits: int | None = None
    signed: bool | None = None
    symmetric: bool | None = None

    def __post_init__(self) -> None:
        for name in ("weight_bits", "activation_bits"):
            bits = getattr(self, name)
            if bits is not None and not MIN_BITS <= bits <= MAX_BITS:
                raise UsageError(
                    f"{name} is {MIN_BITS} to {MAX_BITS}, not {bits}", where=f"override {self.layers!r}"
                )

    def matches(self, op: ProductOperation) -> bool:
        """Whether the override is for ``op``."""
        return any(fnmatchcase(name, self.layers) for name in (short_name(op.location), *tensor_names(op)))

    def encoding(self, base: Encoding) -> Encoding:
        """``base`` with this override's activation options."""
        return Encoding(
            base.bits if self.activation_bits is None else self.activation_bits,
            base.signed if self.signed is None else self.signed,
            base.symmetric if self.symmetric is None else self.symmetric,
        )

    def text(self) -> str:
        """The form a pass option takes; :meth:`parse` reads it back."""
        given = [(f.name, getattr(self, f.name)) for f in fields(self) if f.name != "layers"]
        words = [f"{name}={str(value).lower()}" for name, value in given if value is not None]
        return f"{' '.join(words)} : {self.layers}"

    @classmethod
    def parse(cls, text: str) -> QuantOverride:
        """Read :meth:`text`. Raises UsageError that quotes ``text``."""
        options, colon, layers = text.partition(":")
        if not colon or not layers.strip():
            raise UsageError(f"an override reads 'weight_bits=4 : name glob', not {text!r}")
        override = cls(layers.strip())
        for word in options.split():
            override = replace(override, **_option(word, text))
        return override


def _option(word: str, text: str) -> dict[str, int | bool]:
    name, _, value = word.partition("=")
    if name in ("weight_bits", "activation_bits") and value.isdigit():
        return {name: int(value)}
    if name in ("signed", "symmetric") and value in _SWITCHES:
        return {name: _SWITCHES[value]}
    raise UsageError(
        f"override {text!r}: {word!r} is none of weight_bits=N, activation_bits=N, "
        "signed=true|false, symmetric=true|false"
    )


def parse_overrides(texts: Iterable[str]) -> tuple[QuantOverride, ...]:
    """Overrides of a pass's option, in order."""
    return tuple(QuantOverride.parse(text) for text in texts)


def activation_encoding(op: ProductOperation, base: Encoding, overrides: Sequence[QuantOverride]) -> Encoding:
    """How ``op`` takes its input: ``base`` under every matching override, the last one winning."""
    for override in overrides:
        if override.matches(op):
            base = override.encoding(base)
    return base


def weight_width(op: ProductOperation, base: int, overrides: Sequence[QuantOverride]) -> int:
    """Bits of the weights of ``op``; the last matching override wins."""
    for override in overrides:
        if override.weight_bits is not None and override.matches(op):
            base = override.weight_bits
    return base


def check_overrides(layers: Sequence[ProductOperation], overrides: Sequence[QuantOverride]) -> None:
    """Every override must match a layer: a misspelt name would otherwise silently do nothing.

    Raises UsageError, for all that match none together.
    """
    errors: list[CimError] = []
    for override in overrides:
        if any(override.matches(op) for op in layers):
            continue
        some = ", ".join(repr(short_name(op.location)) for op in layers[:5])
        errors.append(
            UsageError(
                f"override {override.layers!r} matches none of the {len(layers)} Conv and Gemm layers; "
                f"their names begin {some}"
            )
        )
    raise_all(errors)


def check_brought(layers: Sequence[ProductOperation], overrides: Sequence[QuantOverride]) -> None:
    """An override must not change codes that a quantised model brings: its scales would not fit them.

    Raises UsageError, for all such layers together.
    """
    errors: list[CimError] = []
    for layer in layers:
        for override in overrides:
            if not override.matches(layer):
                continue
            wishes = (override.activation_bits, override.signed, override.symmetric)
            given = layer.has_stored_codes and override.weight_bits is not None and "weights"
            if isinstance(layer.input.owner, DequantizeOp) and wishes != (None, None, None):
                given = "input"
            if given:
                text = f"override {override.layers!r} changes codes of its {given} that the model brings"
                errors.append(UsageError(located(layer, f"{text}; take the override away")))
    raise_all(errors)
