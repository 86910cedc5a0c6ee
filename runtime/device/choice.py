"""A section of the device file in which exactly one model is named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from cimc.configuration.located import BrokenRule, Section

Amount = Annotated[float, Field(ge=0, le=1e18)]
"""Rates, spreads and conductances: never negative."""
Positive = Annotated[float, Field(gt=0, le=1e18)]
Probability = Annotated[float, Field(ge=0, le=1)]
Polynomial = Annotated[tuple[float, ...], Field(min_length=1, max_length=16)]
"""Coefficients in ascending powers."""


class OneModel(Section):
    """Each key is a model; one of them is given. The key, not a tag, says which, so that errors have a line."""

    def broken_rules(self) -> Iterator[BrokenRule]:
        """Two models of one effect would both be applied, and none is a section that says nothing."""
        known = ", ".join(type(self).model_fields)
        given = self.given()
        if not given:
            yield BrokenRule((), f"names no model; add one of {known}, or take the section away")
        for name in given[1:]:
            yield BrokenRule((name,), f"is a second model beside {given[0]}; keep one of the two")

    def given(self) -> list[str]:
        """Names of the models that the file gives."""
        return [name for name in type(self).model_fields if getattr(self, name) is not None]

    def chosen(self) -> Section:
        """The one model."""
        model = getattr(self, self.given()[0])
        assert isinstance(model, Section)
        return model
