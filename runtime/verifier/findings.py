"""What the verifier reports: a rule's code, the place, the given value and the remedy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import MappingProxyType

from cimc.diagnostics import CimError
from cimc.runtime.program.tables import NONE

RULES = MappingProxyType(
    {
        "P001": "tables have the columns, types and lengths of the schema; the machine has the sizes that are checked",
        "P002": "an entry of a table names rows of another table that exist",
        "P003": "loops nest, bodies end in one halt, the image loop is the outermost",
        "P004": "loops nest to depth 6",
        "P005": "a parameter exists in every context that runs the body, and fits its field",
        "P006": "operation codes and digital functions are known",
        "P007": "an operand names a buffer that exists, of the kind the instruction takes",
        "P008": "a stride exists",
        "P009": "an immediate names a row that exists",
        "P010": "a record has the constants its function takes",
        "P011": "element types are those the function takes, and clamps lie inside the result's type",
        "P012": "counts are not negative, extents at least 1",
        "P013": "send and DMA take the image from counter 0: the outermost loop around them counts images",
        "P014": "a window is not empty, its cut lies inside it and is as long as the set's rows",
        "P015": "a field that means nothing holds its neutral value",
        "P020": "a context's core exists; ring and set stand on their context's core",
        "P021": "a core holds at most its number of contexts in a phase",
        "P022": "a stream has one context per phase and core",
        "P023": "a buffer is used by its own context only",
        "P024": "a buffer is used on its own core, while it is live",
        "P025": "an array set is used by its own context only, in its phase",
        "P030": "a buffer lies inside its memory",
        "P031": "two live buffers of one memory do not overlap",
        "P032": "a ring's record is consistent",
        "P040": "columns of an operand lie inside the slot",
        "P041": "rows of a ring that are touched are held at that point",
        "P042": "places received fit the ring's slots, places freed are held, an image leaves none behind",
        "P043": "tiles and wordlines lie inside the set",
        "P044": "rows and extents of I/O are those of the tensor",
        "P045": "channels and rows of constants lie inside the record",
        "P050": "a buffer is written before it is read",
        "P051": "cells are written before they are read",
        "P052": "every output row is written once",
        "P060": "crossbar numbers lie inside the core",
        "P061": "a crossbar belongs to one set of a phase",
        "P062": "a tile fits the crossbar",
        "P063": "tiles of a set are disjoint and cover its block",
        "P064": "every weight of a tensor stands in the same number of sets, at least one, and every set is read",
        "P065": "an accumulator is wide enough for the largest possible sum",
        "P066": "codings and converter steps are valid, and the cells can hold the weights",
        "P067": "a set of several groups holds, in every row, weights of one group only",
        "P068": "a coding is the machine's",
        "P069": "weights of the model come from the weight image, sets without a tensor from local memory",
        "P070": "a route's rectangle lies inside the row that is sent",
        "P071": "a route's rectangle lies inside the slot's channels and pitch",
        "P072": "parts of a ring's row do not overlap, and none arrives twice",
        "P073": "parts of every row inside the image add up to the ring's fill, and no row outside it is sent",
        "P074": "the row sent has the ring's element type",
        "P075": "entries of one multicast carry the same rectangle",
        "P080": "the program runs to its end at the given depths",
        "P083": "rings are empty at the end and every place was received",
        "P084": "events end at the count they started with",
        "P085": "a crossbar is written again only behind the last read of what it held",
        "P086": "weights that stay in all calls have their crossbars to themselves",
    }
)
"""Code and sentence of every rule."""


@dataclass(frozen=True)
class Finding:
    """One broken rule at one place. ``context`` and ``row`` are -1 where the rule is about a table."""

    rule: str
    node: str
    context: int
    row: int
    """Row of the instruction table."""
    message: str

    @property
    def where(self) -> str:
        """Node, context and row, as messages begin."""
        parts = [self.node] if self.node != "-" else []
        parts += [f"context {self.context}"] if self.context != NONE else []
        parts += [f"row {self.row}"] if self.row != NONE else []
        return ", ".join(parts) or "program"

    def __str__(self) -> str:
        return f"{self.rule} {self.where}: {self.message}"

    def error(self) -> CimError:
        """As an error of exit code 1."""
        return CimError(f"{self.message} [{self.rule}: {RULES[self.rule]}]", where=self.where)


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Findings of one rule at one row, of however many contexts of a body, as one; order kept."""
    first: dict[tuple[str, str, int, str], Finding] = {}
    more: dict[tuple[str, str, int, str], int] = {}
    for finding in findings:
        about = "" if finding.row != NONE else finding.message
        key = (finding.rule, finding.node, finding.row, about)
        if key in first:
            more[key] += 1
            continue
        first[key] = finding
        more[key] = 0
    return [
        replace(finding, message=f"{finding.message} (and {more[key]} more like it)")
        if more[key]
        else finding
        for key, finding in first.items()
    ]
