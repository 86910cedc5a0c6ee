"""Where the rows of an image go in a consumer's ring: the formulas of ``docs/isa.md``, section Rings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RingGeometry:
    """The ring record of one copy of a stage, in rows and places of one image."""

    first: int
    """Row of the image at the first place; negative where the window starts above the image."""
    last: int
    """Row of the image at the last place; may lie below the image."""
    period: int
    advance: int
    places: int
    top: int
    """Leading places that are rows above the image."""
    bottom: int
    """Trailing places that are rows below the image."""
    window: int
    """Places a turn reads: the oldest ``window`` places held."""
    turns: int
    """Turns of this copy per image."""

    def place(self, row: int) -> int | None:
        """Place within its image of row ``row``, None if the ring does not want it."""
        if not self.first <= row <= self.last:
            return None
        turn, offset = divmod(row - self.first, self.period)
        return turn * self.advance + offset if offset < self.advance else None


def ring_geometry(
    kh: int, sh: int, dh: int, ph: int, rows_in: int, turns_out: int, copy: int = 0, copies: int = 1
) -> RingGeometry:
    """The ring of copy ``copy`` of ``copies`` of a stage.

    ``kh``, ``sh``, ``dh``, ``ph``: kernel, stride, dilation and padding above, in input rows. Turn ``o``
    of ``turns_out`` reads input rows ``o*sh - ph + i*dh`` for ``i < kh``; turns are dealt to copies modulo
    ``copies``. A stage that takes several rows a turn passes the window of the turn as ``kh`` and the rows
    between turns as ``sh``. ``ph`` may be negative (a row tile that starts below the window's first row).
    Raises ValueError for a copy without turns or sizes below 1.
    """
    if min(kh, sh, dh, rows_in, turns_out) < 1:
        raise ValueError(
            f"sizes of a ring are at least 1: kernel {kh}, stride {sh}, dilation {dh}, rows {rows_in}, "
            f"turns {turns_out}"
        )
    if not 0 <= copy < min(copies, turns_out):
        raise ValueError(f"copy {copy} of {copies} has no turn: there are {turns_out}")
    window = (kh - 1) * dh + 1
    period = copies * sh
    advance = min(window, period)
    first = copy * sh - ph
    turns = -((copy - turns_out) // copies)
    places = (turns - 1) * advance + window
    top = _places_before(-first, period, advance, places)
    return RingGeometry(
        first=first,
        last=first + (turns - 1) * period + window - 1,
        period=period,
        advance=advance,
        places=places,
        top=top,
        bottom=places - _places_before(rows_in - first, period, advance, places),
        window=window,
        turns=turns,
    )


def _places_before(rows: int, period: int, advance: int, places: int) -> int:
    """Places that hold one of the first ``rows`` virtual rows counted from the ring's first row."""
    if rows <= 0:
        return 0
    return min(places, (rows // period) * advance + min(rows % period, advance))
