"""Random networks on random machines in core mode, and with crossbars that hold weights: equal to the definition."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from cimc.backends.schema import Architecture
from cimc.diagnostics import CimError, ExitCode
from tests.property.choices import Choices
from tests.property.example import check_example, random_example

EXAMPLES = 25
FIRST = 5000
"""Seeds apart from those of the other tests."""

LEAST_CORES = 24
"""One context a core: fewer hold few of the random networks."""


def in_core_mode(arch: Architecture) -> Architecture:
    """The machine with one stream a core that slides windows itself."""
    fields: dict[str, Any] = arch.model_dump(mode="json")
    fields["mode"] = "core"
    fields["core"]["contexts"] = 1
    fields["chip"]["cores"] = max(fields["chip"]["cores"], LEAST_CORES)
    fields["network"]["rows"] = -(-fields["chip"]["cores"] // fields["network"]["columns"])
    return Architecture.model_validate(fields)


def with_logical_cells(arch: Architecture) -> Architecture:
    """The machine with crossbars of rows x columns weights."""
    fields: dict[str, Any] = arch.model_dump(mode="json")
    fields["crossbar"]["logical_cells"] = True
    return Architecture.model_validate(fields)


@pytest.mark.parametrize("change", [in_core_mode, with_logical_cells])
def test_programs_equal_their_definition(change: Any) -> None:
    """Compiled, verified without data, executed (each fifth digit by digit): output integers are those of
    docs/crossbar.md, and of level 2 where converters are lossless; copies, phases and losses among the examples."""
    seen: Counter[str] = Counter()
    for number in range(EXAMPLES):
        example = random_example(Choices.of(FIRST + number))
        try:
            seen.update(check_example(replace(example, arch=change(example.arch)), walk=number % 5 == 0))
            seen["fits"] += 1
        except CimError as error:
            if error.exit_code is not ExitCode.DOES_NOT_FIT:
                raise
    assert seen["fits"] >= 0.8 * EXAMPLES, seen
    wanted = (
        "producer and consumer with different copies",
        "lossy converter",
        "stride 2 with padding",
        "residual",
    )
    assert all(seen[name] >= 2 for name in wanted), seen
