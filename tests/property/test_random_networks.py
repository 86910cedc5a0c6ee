"""Random networks on random machines: compiled, verified without data, executed, equal to the definition."""

from __future__ import annotations

from collections import Counter

from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from cimc.diagnostics import CimError, ExitCode
from tests.property.choices import Choices
from tests.property.example import WANTED, check_example, random_example

EXAMPLES = 200
EVERY = 10
"""One example in so many is walked digit by digit, and compiled twice."""


def test_programs_equal_their_definition() -> None:
    """Whatever fits compiles to a program without findings whose output integers are those of docs/crossbar.md,
    and of level 2 where converters are lossless; together the examples cover all mechanisms of the mapping."""
    seen: Counter[str] = Counter()

    @settings(
        max_examples=EXAMPLES,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=(HealthCheck.too_slow,),
    )
    @given(st.integers(0, 2**20))
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
    census = "\n".join(f"{name}: {seen[name]}" for name in ("examples", "does not fit", *WANTED))
    assert seen["examples"] >= EXAMPLES, census
    assert seen["does not fit"] < 0.15 * EXAMPLES, census
    assert all(seen[name] >= 0.1 * EXAMPLES for name in WANTED), census
    print(census)
