"""``quantise-activations``: decide which edges carry codes, and under which scale.

The result is a program of real operators between pairs of ``graph.quantize`` and
``graph.dequantize``, the form quantised ONNX models have too; the passes after it turn operators
between pairs into operators on codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue, Use
from xdsl.passes import ModulePass
from xdsl.utils.disjoint_set import DisjointSet

from cimc.diagnostics import CimError, UnsupportedError, UsageError, raise_all
from cimc.dialects.context import CimContext
from cimc.dialects.graph import (
    AddOp,
    AveragePoolOp,
    ClipOp,
    DequantizeOp,
    GlobalAveragePoolOp,
    HostOp,
    ProductOperation,
    QuantizeOp,
    QuantType,
    ReluOp,
)
from cimc.dialects.graph_types import is_float
from cimc.dialects.locations import describe
from cimc.dialects.weights import WeightStore
from cimc.passes.quantise.encodings import Encoding
from cimc.passes.quantise.overrides import (
    QuantOverride,
    activation_encoding,
    check_overrides,
    parse_overrides,
)
from cimc.passes.quantise.ranges import range_of
from cimc.passes.quantise.values import PASS_THROUGH, insert_after, operations, sole_user, value_names

_MAKES_CODES = (ProductOperation, AddOp, AveragePoolOp, GlobalAveragePoolOp, *PASS_THROUGH)
"""Operators that exist on codes: what else makes an edge (input, host, softmax) makes real values."""

MODES = ("auto", "all", "arrays")

_DYNAMIC_PRODUCTS = frozenset({"Attention", "Einsum", "Gemm", "MatMul", "MultiHeadAttention"})
"""Operators that, where they are left to the host, multiply two activations."""


@dataclass(frozen=True)
class QuantiseActivations(ModulePass):
    """Insert quantize and dequantize pairs on edges, with scales from the calibrated ranges.

    ``activations=all`` puts a pair on every float edge; MaxPool, Relu, Clip, Reshape and Concat get one
    (scale, zero point) on all sides, whose range is the union. ``activations=arrays`` puts a pair on
    the inputs of Conv and Gemm only. ``auto`` is ``arrays`` for models that multiply two activations,
    where quantising every edge costs several times the error, and ``all`` otherwise. An edge that only
    feeds a Relu or Clip gets none: it takes over the clamped range later.

    ```mlir
    %y = graph.gemm %x weight <"w"> tensors ["y"] : (tensor<1x4xf32>) -> tensor<1x2xf32>
    // becomes
    %q = graph.quantize %x tensors ["x"] : (tensor<1x4xf32>) -> tensor<1x4x!graph.quant<u8, 0.5, 128>>
    %d = graph.dequantize %q tensors ["x"] : (tensor<1x4x!graph.quant<u8, 0.5, 128>>) -> tensor<1x4xf32>
    %y = graph.gemm %d weight <"w"> tensors ["y"] : (tensor<1x4xf32>) -> tensor<1x2xf32>
    ```
    """

    name = "quantise-activations"

    activations: str = "auto"
    bits: int = 8
    signed: bool = False
    symmetric: bool = False
    overrides: tuple[str, ...] = ()

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Raises UsageError for overrides that match no layer, UnsupportedError for ranges that are missing."""
        assert isinstance(ctx, CimContext)
        overrides = parse_overrides(self.overrides)
        layers = [o for o in operations(op) if isinstance(o, ProductOperation)]
        check_overrides(layers, overrides)
        if self.activations not in MODES:
            raise UsageError(f"activations is one of {', '.join(MODES)}, not {self.activations!r}")
        edges = _Edges(
            value_names(op), Encoding(self.bits, self.signed, self.symmetric), overrides, ctx.store
        )
        if self.activations == "arrays" or (self.activations == "auto" and _multiplies_activations(op)):
            edges.code_array_inputs(layers)
        else:
            edges.code_everything(op)


_Group: TypeAlias = tuple[SSAValue, Encoding]
"""A class of edges, by its first edge, and how its codes are stored."""


def _multiplies_activations(module: ModuleOp) -> bool:
    hosts = [op for op in operations(module) if isinstance(op, HostOp)]
    return any(host.op_type.data in _DYNAMIC_PRODUCTS for host in hosts)


class _Edges:
    """The values of ``@main`` with their names, wishes and ranges."""

    def __init__(
        self,
        named: Mapping[SSAValue, str],
        default: Encoding,
        overrides: Sequence[QuantOverride],
        store: WeightStore,
    ):
        self.named = named
        self.default = default
        self.overrides = overrides
        self.store = store

    def code_array_inputs(self, layers: Sequence[ProductOperation]) -> None:
        """A pair per (input of a layer, encoding wished for)."""
        uses: dict[_Group, list[Use]] = {}
        for layer in layers:
            use = next(u for u in layer.input.uses if u.operation is layer)
            uses.setdefault((layer.input, self.wish(layer)), []).append(use)
        types = self.types_of({key: [key[0]] for key in uses})
        for (value, encoding), wanted in uses.items():
            self.insert_pair(value, types[value, encoding], wanted)

    def code_everything(self, module: ModuleOp) -> None:
        """A pair per edge, one type per class of edges that must agree; more pairs where wishes differ."""
        edges = [value for value in self.named if self.carries_codes(value)]
        classes = _classes(edges)
        wishes = {root: self.common_wish(members) for root, members in classes.items()}
        groups: dict[_Group, list[SSAValue]] = {}
        pairs: list[tuple[SSAValue, _Group, list[Use]]] = []
        for root, members in classes.items():
            ranging = [m for m in members if not _is_clamped_by_its_user(m)] or members
            groups[root, wishes[root]] = ranging
            for value in members:
                if _is_clamped_by_its_user(value):
                    continue
                pairs.append((value, (root, wishes[root]), list(value.uses)))
                for wish, uses in self.other_wishes(value, wishes[root]).items():
                    groups[root, wish] = ranging
                    pairs.append((value, (root, wish), uses))
        types = self.types_of(groups)
        real: dict[SSAValue, SSAValue] = {}
        for value, group, uses in pairs:
            made = self.insert_pair(real.get(value, value), types[group], uses, self.named[value])
            real.setdefault(value, made)

    def other_wishes(self, value: SSAValue, given: Encoding) -> dict[Encoding, list[Use]]:
        """The uses of ``value`` that ask for another encoding than ``given``, by what they ask for."""
        others: dict[Encoding, list[Use]] = {}
        for use in value.uses:
            wish = self.wish_of_use(use)
            if wish is not None and wish != given:
                others.setdefault(wish, []).append(use)
        return others

    def carries_codes(self, value: SSAValue) -> bool:
        """Whether a float edge is coded under ``all``: its producer can, or a consumer gains from it."""
        if not is_float(value) or value.first_use is None:
            return False
        if isinstance(value.owner, _MAKES_CODES):
            return True
        return any(isinstance(use.operation, _MAKES_CODES) for use in value.uses)

    def wish(self, layer: ProductOperation) -> Encoding:
        """How ``layer`` takes its input."""
        return activation_encoding(layer, self.default, self.overrides)

    def wish_of_use(self, use: Use) -> Encoding | None:
        """The encoding a consumer asks for; ``None`` for consumers that take any."""
        return self.wish(use.operation) if isinstance(use.operation, ProductOperation) else None

    def common_wish(self, members: Sequence[SSAValue]) -> Encoding:
        """The encoding all array consumers of a class agree on, or the default."""
        wishes = {self.wish_of_use(use) for member in members for use in member.uses} - {None}
        agreed = wishes.pop() if len(wishes) == 1 else None
        return agreed or self.default

    def types_of(self, groups: Mapping[_Group, Sequence[SSAValue]]) -> dict[_Group, QuantType]:
        """The code type of each group, from the union of its members' ranges; reports all that lack one."""
        errors: dict[str, CimError] = {}
        types: dict[_Group, QuantType] = {}
        for key, members in groups.items():
            ranges = {self.named[m]: range_of(self.store, self.named[m]) for m in members}
            for name, found in ranges.items():
                if found is None:
                    errors[name] = _uncalibrated(next(m for m in members if self.named[m] == name), name)
            known = [found for found in ranges.values() if found is not None]
            if len(known) == len(ranges):
                types[key] = key[1].type_of(min(r[0] for r in known), max(r[1] for r in known))
        raise_all(list(errors.values()))
        return types

    def insert_pair(
        self, value: SSAValue, codes: QuantType, uses: Sequence[Use], name: str | None = None
    ) -> SSAValue:
        """``quantize`` and ``dequantize`` behind ``value``, for ``uses`` of it; returns the real value."""
        tensors = [self.named[value] if name is None else name]
        quantize = QuantizeOp(value, codes, tensors=tensors)
        dequantize = DequantizeOp(quantize.result, tensors=tensors)
        insert_after(value, quantize)
        insert_after(quantize.result, dequantize)
        for use in uses:
            use.operation.operands[use.index] = dequantize.result
        return dequantize.result


def _is_clamped_by_its_user(value: SSAValue) -> bool:
    """Only a Relu or Clip sees ``value``: codes of the clamped range hold all that is left of it."""
    return isinstance(sole_user(value), ReluOp | ClipOp)


def _classes(edges: Sequence[SSAValue]) -> dict[SSAValue, list[SSAValue]]:
    """Edges grouped by the operators that pass codes through, keyed by each class's first edge."""
    sets = DisjointSet(edges)
    coded = set(edges)
    for value in edges:
        if isinstance(value.owner, PASS_THROUGH):
            for operand in coded.intersection(value.owner.operands):
                sets.union(value, operand)
    classes: dict[SSAValue, list[SSAValue]] = {}
    for value in edges:
        classes.setdefault(sets.find(value), []).append(value)
    return {members[0]: members for members in classes.values()}


def _uncalibrated(value: SSAValue, name: str) -> CimError:
    where = describe(value.owner.location) if isinstance(value.owner, Operation) else ""
    return UnsupportedError(
        f"tensor {name!r} has no calibrated range; calibrate on data that reaches it", where=where
    )
