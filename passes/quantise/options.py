"""The user's quantisation options, and the passes they become."""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.passes import ModulePass

from cimc.diagnostics import UsageError
from cimc.passes.quantise.activations import MODES, QuantiseActivations
from cimc.passes.quantise.digital import QuantiseDigital
from cimc.passes.quantise.fuse_activations import FuseActivations
from cimc.passes.quantise.overrides import QuantOverride
from cimc.passes.quantise.pass_through import QuantisePassThrough
from cimc.passes.quantise.products import QuantiseProducts


@dataclass(frozen=True)
class QuantOptions:
    """How a float model is quantised. Raises UsageError for values out of range."""

    activations: str = "auto"
    """``all`` float edges, inputs of ``arrays`` only, or ``auto``: see :class:`QuantiseActivations`."""
    activation_bits: int = 8
    signed: bool = False
    """Storage of asymmetric activation codes."""
    symmetric: bool = False
    """Zero point 0 and signed storage."""
    weight_bits: int = 8
    per_channel: bool = True
    overrides: tuple[QuantOverride, ...] = ()

    def __post_init__(self) -> None:
        if self.activations not in MODES:
            raise UsageError(f"activations is one of {', '.join(MODES)}, not {self.activations!r}")
        for name in ("activation_bits", "weight_bits"):
            if not 2 <= getattr(self, name) <= 16:
                raise UsageError(f"{name} is 2 to 16, not {getattr(self, name)}")

    def passes(self) -> tuple[ModulePass, ...]:
        """The passes from level 1 with calibrated ranges to level 2, in order."""
        texts = tuple(override.text() for override in self.overrides)
        return (
            QuantiseActivations(
                self.activations, self.activation_bits, self.signed, self.symmetric, overrides=texts
            ),
            QuantisePassThrough(),
            QuantiseProducts(self.weight_bits, self.per_channel, overrides=texts),
            QuantiseDigital(),
            FuseActivations(),
        )
