"""The bound on the latency by late work: reached by one stage, below what runs; below all schedules of small chains in
``test_frontier_bound.py``."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cimc
from cimc import models
from cimc.achieved import over_bounds
from cimc.dialects.cim_types import WindowAttr
from cimc.mapping_options import MappingOptions
from cimc.passes.schedule.copies.latency_bound import latency_bound
from cimc.passes.schedule.copies.receptive import Field, least_columns, least_users
from tests.scheduling.chains import works


@pytest.mark.parametrize(
    ("rows", "copies", "window", "row_cycles"), [(12, 3, 40, 1), (12, 12, 40, 7), (9, 1, 5, 2)]
)
def test_one_stage_reaches_it(rows: int, copies: int, window: int, row_cycles: int) -> None:
    """One window a row: rows wait for a copy, or copies for a row; first come, first served is the best there is."""
    free = [0] * copies
    for row in range(rows):
        at = min(range(copies), key=lambda copy: free[copy])
        free[at] = max(free[at], (row + 1) * row_cycles) + window
    bound = latency_bound(works(((1, 2, window),), rows), 2 * copies, Fraction(row_cycles), 0)
    assert bound == max(free)


@given(st.integers(1, 3), st.integers(1, 2), st.integers(0, 1), st.integers(3, 7), st.integers(0, 8))
def test_late_rows_are_those_of_the_best_rows_that_entered(
    kernel: int, stride: int, pad: int, rows: int, entered: int
) -> None:
    """Against all sets of so many rows: those that can be computed from the best of them are not late."""
    if pad >= kernel or entered > rows:
        return
    results = (rows + 2 * pad - kernel) // stride + 1
    if results < 1:
        return
    made = Field.of_input(rows).through(WindowAttr.of((kernel, 1), (stride, 1), (pad, 0, pad, 0)), results)
    if made is None:
        assert stride > kernel - (1 if pad else 0)
        return
    needs = [
        {r for r in range(o * stride - pad, o * stride - pad + kernel) if 0 <= r < rows}
        for o in range(results)
    ]
    most = max(sum(need <= set(sample) for need in needs) for sample in combinations(range(rows), entered))
    assert made.late(entered) == results - most


def test_windows_that_hang_together_are_counted() -> None:
    """A corner of a padded 3 x 3 convolution sees two columns and is seen by four windows; strides leave some out."""
    same, strided = WindowAttr.of((3, 3), pads=(1, 1, 1, 1)), WindowAttr.of((1, 1), (2, 2))
    assert least_columns(same, 8, 8) == 2
    assert least_users(same, (8, 8), (8, 8)) == 4
    assert least_users(strided, (8, 8), (4, 4)) == 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("scheduler", ["none", "polyxb", "cim-mlc", "cimc"])
def test_every_measured_schedule_is_above(scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The cycle engine's latency and interval of a network with residuals, under every scheduler and objective."""
    path = models.export_onnx("digits", tmp_path_factory.getbasetemp() / f"digits.{scheduler}.onnx")
    for objective in ("balanced", "throughput", "latency") if scheduler == "cimc" else (None,):
        given = {"scheduler": scheduler} | ({"objective": objective} if objective else {})
        made = cimc.compile(path, "isaac", mapping=MappingOptions.model_validate(given))
        found = over_bounds(made.report, made.simulate(images=6))
        assert found is not None
        assert found["latency_over_bound"] >= 1
        assert found["interval_over_bound"] >= 1
