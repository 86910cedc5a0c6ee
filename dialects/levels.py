"""What a program may hold at each level, as data; checked between the stages of the compiler.

A level is a table: operation class -> rules beyond the operation's own verifier. The tables of levels
1 and 2 are here; those of the mapped and the instruction level stand next to their dialects, under
the name in :data:`_TABLES`, and are imported when first asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module

from xdsl.dialects.builtin import ModuleOp, TensorType, f32
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Operation
from xdsl.utils.exceptions import VerifyException

from cimc.diagnostics import CimError, UnsupportedError, raise_all
from cimc.dialects.base import check_definition_order, located
from cimc.dialects.graph import (
    AddOp,
    AffineOp,
    AveragePoolOp,
    BinaryConstantOp,
    BinaryOp,
    ClipOp,
    ConcatOp,
    ConvOp,
    DequantizeOp,
    GemmOp,
    GlobalAveragePoolOp,
    HostOp,
    IndexMapOp,
    LookupOp,
    MatmulOp,
    MaxPoolOp,
    NormOp,
    QuantizeOp,
    QuantType,
    ReduceOp,
    ReluOp,
    RequantizeOp,
    ReshapeOp,
    SoftmaxOp,
    StorageCastOp,
    UnaryOp,
)


@dataclass(frozen=True)
class Rule:
    """One sentence of what holds, and a test of it."""

    says: str
    holds: Callable[[Operation], bool]


@dataclass(frozen=True)
class Level:
    """The legal operations of a level, each with its rules, and rules for every operation."""

    name: str
    says: str
    legal: Mapping[type[Operation], tuple[Rule, ...]]
    everywhere: tuple[Rule, ...] = ()
    remedies: Mapping[type[Operation], str] = field(default_factory=dict[type[Operation], str])
    """What to do about an operation that is common elsewhere but not legal here."""


def _computes_on_codes(op: Operation) -> bool:
    """Whether codes enter or leave ``op``; a quantised model's own conversions do not count."""
    return not isinstance(op, QuantizeOp | DequantizeOp | StorageCastOp) and any(
        isinstance(value.type, TensorType) and isinstance(value.type.get_element_type(), QuantType)
        for value in (*op.operands, *op.results)
    )


def _function_is_float(op: Operation) -> bool:
    assert isinstance(op, FuncOp)
    types = (*op.function_type.inputs, *op.function_type.outputs)
    return not any(isinstance(t, TensorType) and isinstance(t.get_element_type(), QuantType) for t in types)


def _takes_codes(op: Operation) -> bool:
    given = op.operands[0].type
    return isinstance(given, TensorType) and given.get_element_type() != f32


NO_CODES = Rule(
    "operators work on real values; codes pass between graph.quantize, graph.dequantize and graph.storage_cast only, "
    "operators on codes belong to level 'quantised'",
    lambda op: not _computes_on_codes(op),
)
FLOAT_BORDER = Rule("@main takes and returns real values", _function_is_float)
CODES_IN = Rule("products with static weights take codes", _takes_codes)

_STRUCTURE: Mapping[type[Operation], tuple[Rule, ...]] = {
    ModuleOp: (),
    FuncOp: (FLOAT_BORDER,),
    ReturnOp: (),
}
_SHARED: Mapping[type[Operation], tuple[Rule, ...]] = {
    ReluOp: (),
    ClipOp: (),
    MaxPoolOp: (),
    AveragePoolOp: (),
    GlobalAveragePoolOp: (),
    AddOp: (),
    ConcatOp: (),
    ReshapeOp: (),
    SoftmaxOp: (),
    BinaryConstantOp: (),
    BinaryOp: (),
    UnaryOp: (),
    IndexMapOp: (),
    LookupOp: (),
    MatmulOp: (),
    NormOp: (),
    ReduceOp: (),
    HostOp: (),
    QuantizeOp: (),
    DequantizeOp: (),
    StorageCastOp: (),
}

IMPORTED = Level(
    "imported",
    "what a front end makes: level 1, with per-channel affine maps not yet folded",
    {**_STRUCTURE, ConvOp: (), GemmOp: (), AffineOp: (), **_SHARED},
    everywhere=(NO_CODES,),
)
GRAPH = Level(
    "graph",
    "level 1: operators on real tensors, weights by name; between them a quantised model's own conversions",
    {**_STRUCTURE, ConvOp: (), GemmOp: (), **_SHARED},
    everywhere=(NO_CODES,),
    remedies={AffineOp: "run the pass graph-fold-batch-norm"},
)
QUANTISED = Level(
    "quantised",
    "level 2: products with static weights are integer with explicit scales, the rest digital",
    {
        **_STRUCTURE,
        ConvOp: (CODES_IN,),
        GemmOp: (CODES_IN,),
        **_SHARED,
        RequantizeOp: (),
    },
    remedies={AffineOp: "run the pass graph-fold-batch-norm"},
)

_TABLES: Mapping[str, tuple[str, str]] = {
    "imported": ("cimc.dialects.levels", "IMPORTED"),
    "graph": ("cimc.dialects.levels", "GRAPH"),
    "quantised": ("cimc.dialects.levels", "QUANTISED"),
    "mapped": ("cimc.dialects.cim", "MAPPED_LEVEL"),
    "isa": ("cimc.dialects.isa", "ISA_LEVEL"),
}
"""Where the table of each level stands: module and name of a :class:`Level`."""


def level_named(name: str) -> Level:
    """The table of a level. Raises ``ValueError`` for a level that does not exist."""
    if name not in _TABLES:
        raise ValueError(f"no level {name!r}; there are {', '.join(_TABLES)}")
    module, attribute = _TABLES[name]
    return getattr(import_module(module), attribute)


def check_level(module: ModuleOp, level: str | Level) -> None:
    """Verify ``module`` and check it against a level's table.

    Raises ``UnsupportedError`` with a location for the first failing verifier, or for all operations
    that break the table together.
    """
    table = level_named(level) if isinstance(level, str) else level
    try:
        module.verify()
        check_definition_order(module)
    except VerifyException as error:
        raise UnsupportedError(str(error)) from error
    errors: list[CimError] = []
    for op in module.walk():
        errors.extend(UnsupportedError(text) for text in _broken(op, table))
    raise_all(errors)


def _broken(op: Operation, table: Level) -> list[str]:
    rules = table.legal.get(type(op))
    if rules is None:
        remedy = table.remedies.get(type(op))
        hint = f"; {remedy}" if remedy else ""
        return [located(op, f"is not legal at level '{table.name}'{hint}")]
    return [
        located(op, f"breaks a rule of level '{table.name}': {rule.says}")
        for rule in (*rules, *table.everywhere)
        if not rule.holds(op)
    ]
