"""Random networks on random machines: compiled, verified without data, executed, equal to the definition."""

from __future__ import annotations

import pytest

from tests.property.census import assert_covered, census

EXAMPLES = 150
"""Here, and as many in test_random_networks_again.py, which runs beside this file: 300 in all."""


def test_programs_equal_their_definition() -> None:
    """Whatever fits compiles to a program without findings whose output integers are those of docs/crossbar.md,
    and of level 2 where converters are lossless; together the examples cover all mechanisms of the mapping."""
    assert_covered(census(EXAMPLES, first=0), EXAMPLES)


@pytest.mark.slow
def test_many_programs_equal_their_definition() -> None:
    """The same for 2,000 other examples."""
    assert_covered(census(2000, first=1 << 24), 2000)
