"""How far stages stay behind their sources: the fewest elements under windows, and the bound that follows."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cimc.dialects.cim_types import WindowAttr
from cimc.passes.schedule.copies.frontier import INPUT, Stage, Taking, frontier_bound
from cimc.passes.schedule.copies.isoperimetry import least_needed, least_rows
from cimc.passes.schedule.copies.latency_bound import latency_bound
from tests.scheduling.chains import SMALL, Chain, best_of_all_copies, works

Extent = tuple[int, int]


def under(window: WindowAttr, sizes: Extent, results: Extent) -> list[frozenset[Extent]]:
    """The elements of a source that each window sees."""
    reach = list(product(range(window.kernel[0]), range(window.kernel[1])))
    found: list[frozenset[Extent]] = []
    for place in product(range(results[0]), range(results[1])):
        seen = [
            tuple(
                place[axis] * window.strides[axis] - window.pads[axis] + tap[axis] * window.dilations[axis]
                for axis in (0, 1)
            )
            for tap in reach
        ]
        found.append(frozenset((y, x) for y, x in seen if 0 <= y < sizes[0] and 0 <= x < sizes[1]))
    return found


def fewest_of_all_sets(window: WindowAttr, sizes: Extent, results: Extent) -> list[int]:
    """The fewest elements under any set of windows of every size, by looking at all sets."""
    masks = [sum(1 << (y * sizes[1] + x) for y, x in seen) for seen in under(window, sizes, results)]
    unions = [0] * (1 << len(masks))
    best = [10**9] * (len(masks) + 1)
    for chosen in range(len(unions)):
        low = chosen & -chosen
        unions[chosen] = unions[chosen ^ low] | masks[low.bit_length() - 1] if chosen else 0
        count = chosen.bit_count()
        best[count] = min(best[count], unions[chosen].bit_count())
    return best


@pytest.mark.parametrize(
    ("kernel", "strides", "pads", "sizes"),
    [
        ((3, 3), (1, 1), (1, 1, 1, 1), (3, 4)),
        ((3, 3), (2, 2), (1, 1, 1, 1), (7, 6)),
        ((1, 1), (2, 2), (0, 0, 0, 0), (5, 5)),
        ((3, 3), (1, 1), (0, 0, 0, 0), (5, 6)),
        ((5, 3), (1, 1), (2, 1, 2, 1), (4, 3)),
        ((3, 1), (1, 1), (1, 0, 1, 0), (4, 3)),
    ],
)
def test_the_fewest_elements_are_those_of_the_best_set(
    kernel: Extent, strides: Extent, pads: tuple[int, int, int, int], sizes: Extent
) -> None:
    """Against all sets of windows."""
    window = WindowAttr.of(kernel, strides, pads)
    spans = (sizes[axis] + pads[axis] + pads[axis + 2] - kernel[axis] for axis in (0, 1))
    high, wide = (span // stride + 1 for span, stride in zip(spans, strides, strict=True))
    assert least_needed(window, sizes, (high, wide)).tolist() == fewest_of_all_sets(
        window, sizes, (high, wide)
    )


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.tuples(*(st.integers(0, 2),) * 4),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.tuples(st.integers(1, 3), st.integers(1, 4)),
)
@settings(max_examples=40, deadline=None)
def test_no_set_of_windows_sees_fewer(
    kernel: Extent, strides: Extent, pads: tuple[int, int, int, int], dilations: Extent, results: Extent
) -> None:
    """Strides, gaps in the windows and wide padding: never above the fewest of all sets; rows as a line of them."""
    sizes = tuple(
        (results[axis] - 1) * strides[axis]
        + (kernel[axis] - 1) * dilations[axis]
        + 1
        - pads[axis]
        - pads[axis + 2]
        for axis in (0, 1)
    )
    if min(sizes) < 1:
        return
    window = WindowAttr.of(kernel, strides, pads, dilations)
    known = fewest_of_all_sets(window, (sizes[0], sizes[1]), results)
    assert (least_needed(window, (sizes[0], sizes[1]), results) <= known).all()
    line = WindowAttr.of((kernel[0], 1), (strides[0], 1), (pads[0], 0, pads[2], 0))
    if dilations[0] == 1:
        of_rows = fewest_of_all_sets(line, (sizes[0], 1), (results[0], 1))
        assert least_rows(window, sizes[0], results[0]).tolist() == of_rows


def stages(chain: Chain, rows: int) -> list[Stage]:
    """What the bound is told of a chain of convolutions over ``rows`` rows of one column."""
    found: list[Stage] = []
    for number, (kernel, tiles, cycles) in enumerate(chain):
        shape = WindowAttr.of((kernel, 1), pads=(kernel // 2, 0, kernel // 2, 0))
        needed = least_needed(shape, (rows, 1), (rows, 1))
        found.append(Stage(rows, ((tiles, cycles),), (Taking((number - 1 if number else INPUT,), needed),)))
    return found


@given(SMALL)
@settings(max_examples=50, deadline=None)
def test_no_schedule_of_a_small_chain_is_below(
    example: tuple[list[tuple[int, int, int]], int, int, int],
) -> None:
    """Frontier and late work against the best of all copies, orders of rows and orders of windows."""
    chain, rows, more, row_cycles = example
    crossbars = sum(tiles for _, tiles, _ in chain) + more
    best = best_of_all_copies(chain, rows, crossbars, row_cycles)
    assert frontier_bound(stages(chain, rows), crossbars, rows, row_cycles) <= best
    assert latency_bound(works(chain, rows), crossbars, Fraction(row_cycles), 0) <= best


@pytest.mark.parametrize("count", [1, 2, 5])
def test_equal_stages_in_order_of_rows_are_the_best(count: int) -> None:
    """One copy each of convolutions over 6 x 6 that all take equally long: rows from the top reach the bound but for
    the single windows in which a stage begins a row behind its source's corner.

    Frames are so small that the frontier is known in closed form: a row and a window of every stage behind the first.
    """
    size, cycles = 6, 100
    window = WindowAttr.of((3, 3), pads=(1, 1, 1, 1))
    needed = least_needed(window, (size, size), (size, size))
    chain = [
        Stage(size * size, ((1, cycles),), (Taking((number - 1,), needed),) if number else ())
        for number in range(count)
    ]
    found = frontier_bound(chain, count, 1, 0.0)
    ends = np.arange(1, size * size + 1) * cycles
    for _ in range(count - 1):
        begins = [
            ends[max(y * size + x for y, x in seen)] for seen in under(window, (size, size), (size, size))
        ]
        ends = np.array(begins) + cycles
        for place in range(1, len(ends)):
            ends[place] = max(ends[place], ends[place - 1] + cycles)
    assert found <= ends[-1]
    assert found >= (size * size + (count - 1) * (size + 1)) * cycles * (1 - 1e-6)


def test_quicker_stages_are_not_charged_a_row() -> None:
    """A consumer with many copies catches up: behind its source it is by the windows that see the last element."""
    size, cycles = 6, 100
    window = WindowAttr.of((3, 3), pads=(1, 1, 1, 1))
    needed = least_needed(window, (size, size), (size, size))
    chain = [Stage(size * size, ((40, cycles),)), Stage(size * size, ((1, cycles),), (Taking((0,), needed),))]
    # One copy of the first; the second has up to 36, and four windows see the corner.
    assert frontier_bound(chain, 40 + 36, 1, 0.0) == pytest.approx((size * size + 1) * cycles, abs=1)
