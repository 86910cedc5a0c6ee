"""Which exact shortcut a product takes, part by part, and why (docs/device.md, shortcuts)."""

from __future__ import annotations

from cimc.runtime.device.periphery import mismatched
from cimc.runtime.device.prepared import Converted, Prepared
from cimc.runtime.device.recipe import Recipe


def explain(recipe: Recipe, prepared: Prepared) -> list[str]:
    """One line per kind of part, the groups and conversions it covers, and what makes it exact."""
    coding = recipe.coding
    groups = len(recipe.bounds) - 1
    count = len(coding.conversions)
    left = sum(len(part.kept) for part in prepared.converted)
    lines: list[str] = []
    if left < groups * count:
        lines.append(
            f"{groups * count - left} of {groups * count} (group, digit) pairs collapse into one integer product: "
            + _why_collapsed(recipe)
        )
    for why, parts in _kinds(recipe, prepared.converted).items():
        pairs = sum(len(part.kept) for part in parts)
        lines.append(
            f"{pairs} of {groups * count} (group, digit) pairs are simulated, {coding.digit_cycles} input digits "
            f"stacked into one product per group: {why}"
        )
    if prepared.clipped_share > 0:
        lines.append(f"{prepared.clipped_share:.2e} of the cells lay outside ±{recipe.v_max:g} levels")
    return lines


def _why_collapsed(recipe: Recipe) -> str:
    if not recipe.converter:
        return "no converter, and errors do not change between reads, so digits add up to effective weights"
    if recipe.device.ideal:
        return "cells are ideal and the converter is the identity on every sum they can give, or they are all zero"
    return "their cells are all zero"


def _kinds(recipe: Recipe, converted: tuple[Converted, ...]) -> dict[str, list[Converted]]:
    """Parts by the reason that they are simulated."""
    if mismatched(recipe):
        why = "the converters' capacitors are mismatched"
    elif recipe.resamples:
        why = f"read noise of scope '{recipe.device.read_scope}' is drawn cell by cell"
    elif recipe.noisy and recipe.device.read_scope != "frozen":
        why = "read noise is one normal a sum, of the variance that the squared digits give: exact in distribution"
    elif recipe.device.ideal:
        why = "the converter can lose information"
    else:
        why = "cells are off their levels, so the converter rounds"
    return {why: list(converted)} if converted else {}
