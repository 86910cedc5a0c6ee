"""The second half of the random networks of test_random_networks.py: a file runs in one process."""

from __future__ import annotations

from tests.property.census import assert_covered, census

EXAMPLES = 150


def test_other_programs_equal_their_definition() -> None:
    """As in test_random_networks.py; each half covers all mechanisms on its own, and so do both."""
    assert_covered(census(EXAMPLES, first=1 << 22), EXAMPLES)
