"""Many examples in a row, and what they cover."""

from __future__ import annotations

from collections import Counter

from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from cimc.diagnostics import CimError, ExitCode
from tests.property.choices import Choices
from tests.property.example import WANTED, check_example, random_example

EVERY = 10
"""One example in so many is walked digit by digit, and compiled twice."""


def census(examples: int, first: int) -> Counter[str]:
    """Check ``examples`` of the seeds from ``first`` on; how many fit their machine and had what of WANTED.

    Raises ``AssertionError``, with the network and the machine noted, where a program is wrong.
    """
    seen: Counter[str] = Counter()

    @settings(
        max_examples=examples,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=(HealthCheck.too_slow,),
    )
    @given(st.integers(first, first + 2**20))
    def check(seed: int) -> None:
        example = random_example(Choices.of(seed))
        note(example.describe())
        seen["examples"] += 1
        try:
            seen.update(check_example(example, walk=seen["examples"] % EVERY == 0))
        except CimError as error:
            if error.exit_code is not ExitCode.DOES_NOT_FIT:
                raise
            seen["does not fit"] += 1

    check()
    return seen


def assert_covered(seen: Counter[str], examples: int) -> None:
    """Each of WANTED in at least a tenth of the examples, and few that do not fit."""
    counts = "\n".join(f"{name}: {seen[name]}" for name in ("examples", "does not fit", *WANTED))
    print(counts)
    assert seen["examples"] >= examples, counts
    assert seen["does not fit"] < 0.15 * examples, counts
    assert all(seen[name] >= 0.1 * examples for name in WANTED), counts
