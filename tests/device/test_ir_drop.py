"""Effective conductances of arrays with resistive wires, against nodal analysis and Ohm's law."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.sparse import coo_matrix, csc_matrix
from scipy.sparse.linalg import splu

from cimc.diagnostics import CimError
from cimc.runtime.device import ir_drop
from cimc.runtime.device.ir_drop import ClosedFormWires, NodalWires, nodal_effective_us
from cimc.runtime.device.loader import parse_device

Floats = npt.NDArray[np.float64]
HEAD = "name: probe\ndescription: for a test\ncell: {g_off_us: 0.0, g_on_us: 100.0}\n"


def nodal_matrix(g_us: Floats, row: float, column: float, driver: float, sense: float) -> csc_matrix:
    """Kirchhoff's current law at the R N row nodes and R N wire nodes, resistor by resistor, in siemens."""
    rows, columns = g_us.shape
    entries: list[tuple[int, int, float]] = []

    def resistor(a: int, b: int | None, siemens: float) -> None:
        entries.append((a, a, siemens))
        if b is not None:
            entries.extend(((b, b, siemens), (a, b, -siemens), (b, a, -siemens)))

    for k in range(rows):
        for n in range(columns):
            here, below = k * columns + n, rows * columns + k * columns + n
            resistor(here, below, g_us[k, n] * 1e-6)
            if n + 1 < columns:
                resistor(here, here + 1, 1 / row)
            if k + 1 < rows:
                resistor(below, below + columns, 1 / column)
        resistor(k * columns, None, 1 / (row + driver))  # to the driver, a voltage source
    for n in range(columns):
        resistor(rows * columns + (rows - 1) * columns + n, None, 1 / (column + sense))  # to 0 V
    i, j, values = zip(*entries, strict=True)
    return csc_matrix(coo_matrix((values, (i, j)), shape=(2 * g_us.size, 2 * g_us.size)))


def brute_force_us(
    g_us: Floats, row: float, column: float, driver: float, sense: float, columns: list[int] | None = None
) -> Floats:
    """G_eff from the whole network, one right-hand side a sense node (adjoint), dense or sparse."""
    rows, count = g_us.shape
    matrix = nodal_matrix(g_us, row, column, driver, sense)
    wanted = list(range(count)) if columns is None else columns
    right = np.zeros((2 * g_us.size, len(wanted)))
    for at, n in enumerate(wanted):
        right[rows * count + (rows - 1) * count + n, at] = 1 / (column + sense)
    solved = np.linalg.solve(matrix.toarray(), right) if columns is None else splu(matrix).solve(right)
    return solved[0 : rows * count : count] / (row + driver) * 1e6


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2), (5, 9), (16, 12)])
@pytest.mark.parametrize("wires", [(1.0, 1.0, 0.0, 0.0), (0.3, 2.5, 100.0, 7.0), (40.0, 0.1, 0.0, 30.0)])
def test_effective_conductance_is_the_nodal_solution(
    shape: tuple[int, int], wires: tuple[float, float, float, float]
) -> None:
    """Block elimination equals the dense solution of the whole resistor network to 1e-9."""
    g = np.random.default_rng(3).uniform(1, 100, shape)
    found = nodal_effective_us(torch.from_numpy(g), *wires).numpy()
    np.testing.assert_allclose(found, brute_force_us(g, *wires), rtol=1e-9)


def test_cells_that_do_not_conduct() -> None:
    """Open cells give exactly no current, and the others see the network without them."""
    g = np.random.default_rng(4).uniform(1, 100, (9, 6))
    g[np.random.default_rng(5).random(g.shape) < 0.5] = 0.0
    found = nodal_effective_us(torch.from_numpy(g), 1.0, 1.0, 10.0, 5.0).numpy()
    np.testing.assert_allclose(found, brute_force_us(g, 1.0, 1.0, 10.0, 5.0), rtol=1e-9, atol=1e-12)
    silent = nodal_effective_us(torch.zeros((3, 4), dtype=torch.float64), 1.0, 1.0, 0.0, 0.0)
    assert not silent.any()


def test_one_cell_is_resistors_in_series() -> None:
    """A 1 x 1 array: driver + row segment + cell + column segment + sense, by Ohm's law."""
    for g in (0.5, 30.0, 1e5):
        found = float(nodal_effective_us(torch.tensor([[g]], dtype=torch.float64), 2.0, 3.0, 50.0, 7.0))
        assert found == pytest.approx(1e6 / (2 + 3 + 50 + 7 + 1e6 / g), rel=1e-12)


def test_one_column_is_a_ladder() -> None:
    """An R x 1 array: by superposition, a ladder of column segments that every driven row feeds."""
    g_us = np.random.default_rng(6).uniform(1, 100, 12)
    row, column, driver, sense = 2.0, 4.0, 30.0, 9.0
    found = nodal_effective_us(torch.from_numpy(g_us[:, None]), row, column, driver, sense)[:, 0].tolist()
    branch = 1 / (row + driver + 1e6 / g_us)  # a row node in series with its cell
    for k in range(12):
        above = 0.0  # conductance to ground of everything on top of row k, seen from its wire node
        for i in range(k):
            above = 1 / (column + 1 / (above + branch[i]))
        # below: walk from the sense node up to row k, noting how much of the current arrives
        to_ground = 1 / (column + sense)
        arrives = 1.0
        for i in range(11, k, -1):
            total = to_ground + branch[i]
            arrives *= to_ground / total
            to_ground = 1 / (column + 1 / total)
        voltage = branch[k] / (branch[k] + above + to_ground)
        assert found[k] == pytest.approx(voltage * to_ground * arrives * 1e6, rel=1e-12)


def test_one_row_is_a_ladder_of_loads() -> None:
    """A 1 x N array: cells with their sense nodes load the row wire, whose voltage falls along it."""
    g_us = np.random.default_rng(7).uniform(1, 100, 9)
    row, column, driver, sense = 3.0, 2.0, 40.0, 5.0
    found = nodal_effective_us(torch.from_numpy(g_us[None]), row, column, driver, sense)[0].tolist()
    load = 1 / (1e6 / g_us + column + sense)
    behind = np.zeros(10)  # conductance of loads n … N - 1 seen from the row node n
    for n in range(8, -1, -1):
        beyond = 1 / (row + 1 / behind[n + 1]) if n < 8 else 0.0
        behind[n] = load[n] + beyond
    voltage = 1.0
    for n in range(9):
        series = row + driver if n == 0 else row
        voltage *= 1 / (1 + series * behind[n])
        assert found[n] == pytest.approx(voltage * load[n] * 1e6, rel=1e-12)


def test_larger_arrays_lose_what_was_published() -> None:
    """1 ohm segments, 1 to 100 uS, all rows driven: 3.8 % at 32 rows, 12.6 % at 64, 35.6 % at 128, to 0.3 %.

    Three columns of the 128 x 128 array are compared with a sparse factorisation of its 32768 nodes.
    """
    for size, published in ((32, 0.038), (64, 0.126), (128, 0.356)):
        g = torch.from_numpy(np.random.default_rng(0).uniform(1, 100, (size, size)))
        effective = nodal_effective_us(g, 1.0, 1.0, 0.0, 0.0)
        ideal = g.sum(dim=0)
        error = float((effective.sum(dim=0) - ideal).norm() / ideal.norm())
        assert error == pytest.approx(published, abs=0.003)
        if size == 128:
            columns = [0, 63, 127]
            sparse = brute_force_us(g.numpy(), 1.0, 1.0, 0.0, 0.0, columns)
            np.testing.assert_allclose(effective[:, columns].numpy(), sparse, rtol=1e-9)


def test_arrays_are_solved_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of arrays gives each array's own solution, also where it is cut to bound the memory."""
    g = torch.from_numpy(np.random.default_rng(8).uniform(1, 100, (3, 2, 6, 5)))
    together = nodal_effective_us(g, 1.0, 2.0, 3.0, 4.0)
    for i in range(3):
        for j in range(2):
            torch.testing.assert_close(together[i, j], nodal_effective_us(g[i, j], 1.0, 2.0, 3.0, 4.0))
    wires = NodalWires(
        array_columns=5, row_segment_ohm=1.0, column_segment_ohm=2.0, driver_ohm=3.0, sense_ohm=4.0
    )
    whole = wires.effective_us(g)
    monkeypatch.setattr(ir_drop, "SOLVER_BYTES", 2 * 8 * 5 * 6 * 7)
    torch.testing.assert_close(wires.effective_us(g), whole)
    torch.testing.assert_close(whole, together)


def test_less_wire_is_less_loss() -> None:
    """The current of an array with all rows driven falls as its wires get worse (Rayleigh), from G without wires."""
    g = torch.from_numpy(np.random.default_rng(9).uniform(1, 100, (20, 20)))
    before = float(g.sum())
    for ohm in (1e-4, 0.1, 1.0, 10.0):
        after = float(nodal_effective_us(g, ohm, ohm, 0.0, 0.0).sum())
        assert after < before
        before = after
    torch.testing.assert_close(nodal_effective_us(g, 1e-4, 1e-4, 0.0, 0.0), g, rtol=1e-5, atol=0)


def closed_form_current(g_us: Floats, x: Floats, ohm: float) -> Floats:
    """aihwkit's applyIrDrop word for word, column by column, k counted from the sense node (the last row)."""
    rows, columns = g_us.shape
    result = np.zeros(columns)
    for n in range(columns):
        total = sum(g_us[k, n] * x[k] for k in range(rows))
        a = total * rows * ohm * 1e-6
        c = a * (a * (0.05 * a - 0.2) + 0.5)
        lost = sum(g_us[k, n] * x[k] * (1 - (1 - (rows - 1 - k) / rows) ** 2) for k in range(rows))
        result[n] = total - c * lost
    return result


def test_the_closed_form_is_the_tools_formula() -> None:
    """At its drive the effective conductance gives the formula's currents exactly; scale 0 loses nothing."""
    g = np.random.default_rng(10).uniform(0.1, 5, (64, 10))
    wires = ClosedFormWires(array_columns=10, segment_ohm=0.35, mean_drive=0.25)
    effective = wires.effective_us(torch.from_numpy(g)).numpy()
    x = np.full(64, 0.25)
    np.testing.assert_allclose(effective.T @ x, closed_form_current(g, x, 0.35), rtol=1e-12)
    none = ClosedFormWires(array_columns=10, scale=0.0).effective_us(torch.from_numpy(g))
    assert torch.equal(none, torch.from_numpy(g))


def test_the_closed_form_approximates_the_network() -> None:
    """With row wires of almost no resistance the closed form's loss is within 5 % of the exact one.

    It neglects the segment to the sense node, which is left out on the exact side by giving it a thousandth.
    """
    g = torch.from_numpy(np.random.default_rng(11).uniform(0.1, 5, (256, 4)))
    exact = nodal_effective_us(g, 1e-3, 0.35, 0.0, -0.34965)
    close = ClosedFormWires(array_columns=4, segment_ohm=0.35, mean_drive=1.0).effective_us(g)
    ideal = g.sum(dim=0)
    lost, approximated = ideal - exact.sum(dim=0), ideal - close.sum(dim=0)
    assert float((lost / ideal).min()) > 0.01
    torch.testing.assert_close(approximated, lost, rtol=0.05, atol=0)


def test_a_device_with_wires_is_not_ideal() -> None:
    """Wires are part of the device file; without them G_eff is G."""
    text = HEAD + "wires: {nodal: {array_columns: 8, row_segment_ohm: 1.0, column_segment_ohm: 1.0}}\n"
    device = parse_device(text, "dev.yaml")
    assert not device.ideal
    assert device.array_columns == 8
    g = torch.from_numpy(np.random.default_rng(12).uniform(1, 100, (6, 8)))
    assert isinstance(device.file.wires and device.file.wires.nodal, NodalWires)
    assert torch.equal(device.effective_us(g), nodal_effective_us(g, 1.0, 1.0, 0.0, 0.0))
    plain = parse_device(HEAD, "dev.yaml")
    assert plain.effective_us(g) is g
    assert plain.array_columns is None


def test_wordlines_below_lengthen_the_columns() -> None:
    """A group that ends above the sense nodes has so many more segments in series with each of them."""
    text = (
        "wires: {nodal: {array_columns: 5, array_rows: 40, row_segment_ohm: 1.0, column_segment_ohm: 2.0}}\n"
    )
    device = parse_device(HEAD + text, "dev.yaml")
    assert device.array_rows == 40
    g = np.random.default_rng(13).uniform(1, 100, (6, 5))
    found = device.effective_us(torch.from_numpy(g), 30).numpy()
    np.testing.assert_allclose(found, brute_force_us(g, 1.0, 2.0, 0.0, 60.0), rtol=1e-9)


@pytest.mark.parametrize(
    ("wires", "message"),
    [
        (
            "nodal: {array_columns: 8, row_segment_ohm: 0, column_segment_ohm: 1}",
            "row_segment_ohm: must be greater",
        ),
        (
            "nodal: {array_columns: 0, row_segment_ohm: 1, column_segment_ohm: 1}",
            "array_columns: must be greater",
        ),
        (
            "closed_form: {array_columns: 8, mean_drive: 2}",
            "mean_drive: must be less than or equal to 1, given 2",
        ),
    ],
)
def test_impossible_wires_are_refused(wires: str, message: str) -> None:
    """Wires without resistance are left out, not written as 0."""
    with pytest.raises(CimError, match=message):
        parse_device(HEAD + f"wires: {{{wires}}}\n", "dev.yaml")
