"""Source locations: how they read, how they are made, and how rewrites keep them.

xDSL carries ``op.location`` but ``PatternRewriter.replace`` does not copy it to the new
operations, so every pass walks with :func:`keeping_locations`.
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import FileLineColLoc, IntAttr, LocationAttr, NameLoc, StringAttr, UnknownLoc
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.pattern_rewriter import PatternRewriterListener


def node_location(name: str, file: str, index: int) -> LocationAttr:
    """``loc("layer1.0.conv1"("model.onnx":12:0))``: node ``index`` of ``file``, called ``name``."""
    place = FileLineColLoc(StringAttr(file), IntAttr(index), IntAttr(0))
    return NameLoc(StringAttr(name), place)


def describe(location: Attribute) -> str:
    """A location as a person reads it: ``layer1.0.conv1 (model.onnx:12)``; empty when unknown."""
    match location:
        case NameLoc(desc=desc, location=inner):
            where = describe(inner)
            return f"{desc.data} ({where})" if where else desc.data
        case FileLineColLoc(filename=name, line=line):
            return f"{name.data}:{line.data}"
        case _:
            return ""


def short_name(location: Attribute) -> str:
    """The name alone, without file and line; empty when the operation has none."""
    return location.desc.data if isinstance(location, NameLoc) else ""


def _inherit(op: Operation, new_results: Sequence[SSAValue | None]) -> None:
    for result in new_results:
        if result is None or not isinstance(new := result.owner, Operation):
            continue
        if isinstance(new.location, UnknownLoc):
            new.location = op.location


def keeping_locations() -> PatternRewriterListener:
    """A listener that gives a replacement the location of what it replaces, unless it has its own."""
    return PatternRewriterListener(operation_replacement_handler=[_inherit])
