"""``quantise-activations``: decide which edges carry codes, and under which scale.

The result is a program of real operators between pairs of ``graph.quantize`` and
``graph.dequantize``, the form quantised ONNX models have too; the passes after it turn operators
between pairs into operators on codes. Edges that a model has coded already keep their scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import ReturnOp
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
    MatmulOp,
    ProductOperation,
    QuantizeOp,
    QuantType,
    ReluOp,
)
from cimc.dialects.graph_types import is_float, quant_of
from cimc.dialects.locations import describe
from cimc.dialects.weights import WeightStore
from cimc.passes.quantise.encodings import Encoding
from cimc.passes.quantise.overrides import (
    QuantOverride,
    activation_encoding,
    check_brought,
    check_overrides,
    parse_overrides,
)
from cimc.passes.quantise.ranges import range_of
from cimc.passes.quantise.values import (
    PASS_THROUGH,
    insert_after,
    operations,
    passes_codes,
    sole_user,
    value_names,
)

_MAKES_CODES = (ProductOperation, AddOp, AveragePoolOp, GlobalAveragePoolOp, *PASS_THROUGH)
"""Operators that exist on codes: what else makes an edge (input, host, softmax) makes real values."""

MODES = ("auto", "all", "arrays")

_DYNAMIC_PRODUCTS = frozenset({"Attention", "Einsum", "Gemm", "MatMul", "MultiHeadAttention"})
"""Operators that, where they are left to the host, multiply two activations."""


@dataclass(frozen=True)
class QuantiseActivations(ModulePass):
    """Insert quantize and dequantize pairs on edges, with scales from the calibrated ranges.

    ``activations=all`` puts a pair on every float edge; MaxPool, Relu, Clip, Reshape, Concat and moves get one
    (scale, zero point) on all sides, whose range is the union. ``activations=arrays`` puts a pair on
    the inputs of Conv and Gemm only. ``auto`` is ``arrays`` for models that multiply two activations,
    where quantising every edge costs several times the error, and ``all`` otherwise. An edge that only
    feeds a Relu or Clip gets none: it takes over the clamped range later. Codes that the model brings keep
    their scale, whatever the options say, and give it to the edges that must agree with them.

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
        """Raises UsageError for overrides that match no layer or touch codes the model brings,
        UnsupportedError for ranges that are missing."""
        assert isinstance(ctx, CimContext)
        edges = self._edges(op, ctx.store)
        plan = self._plan(op, edges)
        types = edges.types_of(plan.groups)
        made: dict[SSAValue, SSAValue] = {}
        for pair in plan.pairs:
            real = edges.insert_pair(
                made.get(pair.value, pair.value), types[pair.group], pair.uses, pair.value
            )
            made.setdefault(pair.value, real)

    def wanted_ranges(self, store: WeightStore, op: ModuleOp) -> tuple[str, ...]:
        """Names of the tensors whose calibrated range :meth:`apply` needs; none where the model has all codes.

        Raises as :meth:`apply` does for overrides.
        """
        edges = self._edges(op, store)
        groups = self._plan(op, edges).groups.values()
        return tuple(dict.fromkeys(edges.named[m] for g in groups if g.brought is None for m in g.members))

    def _edges(self, op: ModuleOp, store: WeightStore) -> _Edges:
        overrides = parse_overrides(self.overrides)
        layers = [o for o in operations(op) if isinstance(o, ProductOperation)]
        check_overrides(layers, overrides)
        check_brought(layers, overrides)
        if self.activations not in MODES:
            raise UsageError(f"activations is one of {', '.join(MODES)}, not {self.activations!r}")
        return _Edges(value_names(op), Encoding(self.bits, self.signed, self.symmetric), overrides, store)

    def _plan(self, op: ModuleOp, edges: _Edges) -> _Plan:
        if self.activations == "arrays" or (self.activations == "auto" and _multiplies_activations(op)):
            layers = [o for o in operations(op) if isinstance(o, ProductOperation)]
            frames = [o for o in operations(op) if isinstance(o, MatmulOp) and o.on_arrays is not None]
            return edges.plan_array_inputs(layers, frames)
        return edges.plan_everything()


_Group: TypeAlias = tuple[SSAValue, Encoding]
"""A class of edges, by its first edge, and how its codes are stored."""


@dataclass(frozen=True)
class _Range:
    """Where the codes of a group come from: a type the model brings, or the ranges of ``members``."""

    members: tuple[SSAValue, ...]
    brought: QuantType | None = None


@dataclass(frozen=True)
class _Pair:
    """A conversion to codes and back, to stand behind ``value`` for ``uses`` of it."""

    value: SSAValue
    group: _Group
    uses: tuple[Use, ...]


@dataclass(frozen=True)
class _Plan:
    """What will be coded, in order, before any range is known."""

    groups: Mapping[_Group, _Range]
    pairs: Sequence[_Pair]


def _multiplies_activations(module: ModuleOp) -> bool:
    if any(isinstance(op, MatmulOp) for op in operations(module)):
        return True
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

    def plan_array_inputs(self, layers: Sequence[ProductOperation], frames: Sequence[MatmulOp]) -> _Plan:
        """A pair per (input of a layer, encoding wished for), and one for each operand of a product on arrays."""
        uses: dict[_Group, list[Use]] = {}
        for layer in layers:
            if isinstance(layer.input.owner, DequantizeOp):
                continue
            use = next(u for u in layer.input.uses if u.operation is layer)
            uses.setdefault((layer.input, self.wish(layer)), []).append(use)
        for product in frames:
            for use in (u for v in dict.fromkeys(product.operands) for u in v.uses if u.operation is product):
                value = product.operands[use.index]
                uses.setdefault((value, self.frame_encoding(use.index)), []).append(use)
        groups = {group: _Range((group[0],), _brought(group[0])) for group in uses}
        return _Plan(groups, [_Pair(group[0], group, tuple(wanted)) for group, wanted in uses.items()])

    def plan_everything(self) -> _Plan:
        """A pair per edge, one type per class of edges that must agree; more pairs where wishes differ."""
        edges = [value for value in self.named if self.carries_codes(value)]
        groups: dict[_Group, _Range] = {}
        pairs: list[_Pair] = []
        for root, members in _classes(edges).items():
            types = {found for m in members if (found := _brought(m)) is not None}
            brought = next(iter(types)) if len(types) == 1 else None
            bare = [m for m in members if _brought(m) is None]
            ranging = tuple(m for m in bare if not _is_clamped_by_its_user(m)) or tuple(bare)
            group = (root, self.common_wish(members))
            for value in members:
                own = _brought(value)
                if own is not None:
                    # The edge has codes; what reads it beside them takes their real values.
                    rest = _uses_beside_codes(value)
                    if rest:
                        groups[value, group[1]] = _Range((value,), own)
                        pairs.append(_Pair(value, (value, group[1]), rest))
                    continue
                if _is_clamped_by_its_user(value):
                    continue
                groups[group] = _Range(ranging, brought)
                pairs.append(_Pair(value, group, tuple(value.uses)))
                if brought is not None:
                    continue
                for wish, uses in self.other_wishes(value, group[1]).items():
                    groups[root, wish] = _Range(ranging)
                    pairs.append(_Pair(value, (root, wish), tuple(uses)))
        return _Plan(groups, pairs)

    def other_wishes(self, value: SSAValue, given: Encoding) -> dict[Encoding, list[Use]]:
        """The uses of ``value`` that ask for another encoding than ``given``, by what they ask for."""
        others: dict[Encoding, list[Use]] = {}
        for use in value.uses:
            wish = self.wish_of_use(use)
            if wish is not None and wish != given:
                others.setdefault(wish, []).append(use)
        return others

    def carries_codes(self, value: SSAValue) -> bool:
        """Whether a float edge is coded under ``all``: its producer can, or a consumer gains from it.

        A real result of the whole model stays real where the model itself coded what it is made of.
        """
        if not is_float(value) or value.first_use is None:
            return False
        if _is_real_result_of_codes(value):
            return False
        if isinstance(value.owner, _MAKES_CODES):
            return True
        if passes_codes(value.owner) and all(self.carries_codes(v) for v in value.owner.operands):
            return True
        return any(isinstance(use.operation, _MAKES_CODES) for use in value.uses)

    def wish(self, layer: ProductOperation) -> Encoding:
        """How ``layer`` takes its input."""
        return activation_encoding(layer, self.default, self.overrides)

    def frame_encoding(self, operand: int) -> Encoding:
        """How a product on arrays takes its operands: the first behind a softmax, never below 0; the second as weights
        are stored."""
        return Encoding(self.default.bits, symmetric=operand == 1)

    def wish_of_use(self, use: Use) -> Encoding | None:
        """The encoding a consumer asks for; ``None`` for consumers that take any."""
        return self.wish(use.operation) if isinstance(use.operation, ProductOperation) else None

    def common_wish(self, members: Sequence[SSAValue]) -> Encoding:
        """The encoding all array consumers of a class agree on, or the default."""
        wishes = {self.wish_of_use(use) for member in members for use in member.uses} - {None}
        agreed = wishes.pop() if len(wishes) == 1 else None
        return agreed or self.default

    def types_of(self, groups: Mapping[_Group, _Range]) -> dict[_Group, QuantType]:
        """The code type of each group: brought, or of the union of its ranges; reports all that lack one."""
        errors: dict[str, CimError] = {}
        types: dict[_Group, QuantType] = {}
        for key, group in groups.items():
            if group.brought is not None:
                types[key] = group.brought
                continue
            ranges = {self.named[m]: range_of(self.store, self.named[m]) for m in group.members}
            for name, found in ranges.items():
                if found is None:
                    member = next(m for m in group.members if self.named[m] == name)
                    errors[name] = _uncalibrated(member, name)
            known = [found for found in ranges.values() if found is not None]
            if len(known) == len(ranges):
                types[key] = key[1].type_of(min(r[0] for r in known), max(r[1] for r in known))
        raise_all(list(errors.values()))
        return types

    def insert_pair(self, real: SSAValue, codes: QuantType, uses: Sequence[Use], named: SSAValue) -> SSAValue:
        """``quantize`` and ``dequantize`` behind ``real``, for ``uses``, called as ``named`` is; returns the
        real value."""
        tensors = [self.named[named]]
        quantize = QuantizeOp(real, codes, tensors=tensors)
        dequantize = DequantizeOp(quantize.result, tensors=tensors)
        insert_after(real, quantize)
        insert_after(quantize.result, dequantize)
        for use in uses:
            use.operation.operands[use.index] = dequantize.result
        return dequantize.result


def _brought(value: SSAValue) -> QuantType | None:
    """The codes that the model itself gives to the edge ``value``: before it, or first behind it."""
    if isinstance(value.owner, DequantizeOp):
        return quant_of(value.owner.input)
    quantizers = [use.operation for use in value.uses if isinstance(use.operation, QuantizeOp)]
    return quant_of(quantizers[0].result) if quantizers else None


def _is_real_result_of_codes(value: SSAValue) -> bool:
    owner = value.owner
    if not isinstance(owner, Operation) or isinstance(owner, DequantizeOp):
        return False
    returned = all(isinstance(use.operation, ReturnOp) for use in value.uses)
    return returned and any(isinstance(operand.owner, DequantizeOp) for operand in owner.operands)


def _uses_beside_codes(value: SSAValue) -> tuple[Use, ...]:
    """Uses of a real value that has codes of its own, and that do not go through them."""
    if isinstance(value.owner, DequantizeOp):
        return ()
    return tuple(use for use in value.uses if not isinstance(use.operation, QuantizeOp))


def _is_clamped_by_its_user(value: SSAValue) -> bool:
    """Only a Relu or Clip sees ``value``: codes of the clamped range hold all that is left of it."""
    return isinstance(sole_user(value), ReluOp | ClipOp)


def _classes(edges: Sequence[SSAValue]) -> dict[SSAValue, list[SSAValue]]:
    """Edges grouped by the operators that pass codes through, keyed by each class's first edge."""
    sets = DisjointSet(edges)
    coded = set(edges)
    for value in edges:
        if passes_codes(value.owner):
            for operand in dict.fromkeys(o for o in value.owner.operands if o in coded):
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
