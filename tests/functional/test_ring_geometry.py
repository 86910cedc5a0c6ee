"""The ring formulas of docs/isa.md against a list of the rows each turn reads."""

from __future__ import annotations

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cimc.runtime.program.geometry import ring_geometry

_SIZE = st.integers(1, 5)


@settings(max_examples=600, deadline=None)
@given(_SIZE, _SIZE, st.integers(1, 3), st.integers(-2, 4), st.integers(1, 20), st.integers(1, 5), st.data())
def test_places_of_every_turn(
    kh: int, sh: int, dh: int, ph: int, rows_in: int, copies: int, data: st.DataObject
) -> None:
    """The window of turn i is the rows ``o*sh - ph .. + K`` of its output row o, as K adjoining places."""
    span = (kh - 1) * dh + 1
    turns_out = (rows_in + 2 * max(ph, 0) - span) // sh + 1
    assume(turns_out >= 1)
    copy = data.draw(st.integers(0, min(copies, turns_out) - 1))
    g = ring_geometry(kh, sh, dh, ph, rows_in, turns_out, copy, copies)

    turns = list(range(copy, turns_out, copies))
    assert g.turns == len(turns)
    rows_of_place: list[int] = []
    for i, output_row in enumerate(turns):
        window = list(range(output_row * sh - ph, output_row * sh - ph + span))
        new = window if i == 0 else window[-g.advance :]
        rows_of_place += new
        assert rows_of_place[i * g.advance : i * g.advance + g.window] == window
    assert len(rows_of_place) == g.places

    above = sum(r < 0 for r in rows_of_place)
    below = sum(r >= rows_in for r in rows_of_place)
    assert (g.top, g.bottom) == (above, below)
    wanted = {row: place for place, row in enumerate(rows_of_place) if 0 <= row < rows_in}
    assert {r: p for r in range(rows_in) if (p := g.place(r)) is not None} == wanted
