"""Moves of moved elements become one move: each costs a pass through the global buffer."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import (
    GreedyRewritePatternApplier,
    PatternRewriter,
    PatternRewriteWalker,
    RewritePattern,
    op_type_rewrite_pattern,
)
from xdsl.transforms.dead_code_elimination import dce

from cimc.dialects.context import CimContext
from cimc.dialects.graph import IndexMapOp, ReshapeOp
from cimc.dialects.graph_types import AnyTensor, shape_of, tensor
from cimc.dialects.locations import keeping_locations
from cimc.dialects.weights import WeightStore
from cimc.passes.graph.canonicalise import DropIdentityReshape, MergeReshapes
from cimc.passes.graph.whole_index import whole_index


@dataclass(frozen=True)
class _Move:
    """What an index map says: ``index`` numbers the elements of the sources, then those of ``constant``."""

    sources: tuple[SSAValue, ...]
    index: npt.NDArray[np.int64]
    constant: npt.NDArray[np.float32]

    @staticmethod
    def of(op: IndexMapOp, store: WeightStore) -> _Move:
        """The move of ``op``."""
        held = np.zeros(0, np.float32) if op.constant is None else store.array(op.constant.key.data)
        return _Move(tuple(op.inputs), whole_index(op, store), held)

    def replacing(self, number: int, inner: _Move) -> _Move:
        """The same elements, those of source ``number`` taken from where ``inner`` has them."""
        sizes = [prod(shape_of(v)) for v in self.sources]
        starts = np.cumsum([0, *sizes])
        total, inner_total = int(starts[-1]), sum(prod(shape_of(v)) for v in inner.sources)
        sources = (*self.sources[:number], *inner.sources, *self.sources[number + 1 :])
        grown = total - sizes[number] + inner_total
        own = np.arange(total + len(self.constant), dtype=np.int64)
        own[starts[number + 1] :] += inner_total - sizes[number]
        there = inner.index.reshape(-1) + starts[number]
        constants = inner.index.reshape(-1) >= inner_total
        there[constants] += grown + len(self.constant) - inner_total - starts[number]
        own[starts[number] : starts[number + 1]] = there
        return _Move(sources, own[self.index], np.concatenate([self.constant, inner.constant]))

    def build(self, result: AnyTensor, names: list[str], store: WeightStore, key: str) -> IndexMapOp:
        """The operation with the result type ``result``."""
        shape = result.get_shape()
        framed = len(shape) > 1 and all(
            len(s) > 1 and s[0] == 1 for s in (shape, *(shape_of(v) for v in self.sources))
        )
        index = self.index.reshape(shape[1:] if framed else shape)
        held = store.put(store.fresh(f"{key}.elements"), self.constant) if len(self.constant) else None
        return IndexMapOp(
            self.sources,
            result,
            index=store.put(store.fresh(key), index),
            constant=held,
            per_frame=framed,
            tensors=names,
        )


@dataclass
class _MoveOfMove(RewritePattern):
    """A move of a reshape or of a move takes the elements from where those have them."""

    store: WeightStore

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: IndexMapOp, rewriter: PatternRewriter) -> None:
        move = _Move.of(op, self.store)
        for number, source in enumerate(move.sources):
            owner = source.owner
            inner = None
            if isinstance(owner, ReshapeOp):
                same = np.arange(prod(shape_of(source)), dtype=np.int64).reshape(shape_of(source))
                inner = _Move((owner.input,), same, np.zeros(0, np.float32))
            elif isinstance(owner, IndexMapOp):
                inner = _Move.of(owner, self.store)
            if inner is not None:
                names = [name.data for name in op.tensors]
                composed = move.replacing(number, inner)
                rewriter.replace(op, composed.build(tensor(op.result), names, self.store, op.index.key.data))
                return


@dataclass
class _ReshapeOfMove(RewritePattern):
    """A reshape of a move that nobody else reads is a move; one that changes no order is a reshape."""

    store: WeightStore

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: ReshapeOp, rewriter: PatternRewriter) -> None:
        owner = op.input.owner
        if not isinstance(owner, IndexMapOp) or not op.input.has_one_use():
            return
        move = _Move.of(owner, self.store)
        names = [name.data for name in op.tensors]
        rewriter.replace(op, move.build(tensor(op.result), names, self.store, owner.index.key.data))


@dataclass
class _NoMove(RewritePattern):
    """A move that leaves every element where it is is a reshape."""

    store: WeightStore

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: IndexMapOp, rewriter: PatternRewriter) -> None:
        move = _Move.of(op, self.store)
        if len(move.sources) != 1 or str(tensor(op.result).get_element_type()) != "f32":
            return
        size = prod(shape_of(move.sources[0]))
        if move.index.size != size or not np.array_equal(move.index.reshape(-1), np.arange(size)):
            return
        names = [name.data for name in op.tensors]
        rewriter.replace(op, ReshapeOp(move.sources[0], tensor(op.result), tensors=names))


@dataclass(frozen=True)
class ComposeMoves(ModulePass):
    """Consecutive ``graph.index_map`` and ``graph.reshape`` become one ``graph.index_map``, or none.

    ```mlir
    %a = graph.reshape %x tensors ["a"] : (tensor<1x8x4xf32>) -> tensor<1x8x2x2xf32>
    %b = graph.index_map %a index <"heads"> per_frame tensors ["b"] : (tensor<1x8x2x2xf32>) -> tensor<1x2x8x2xf32>
    ```

    becomes

    ```mlir
    %b = graph.index_map %x index <"heads.1"> per_frame tensors ["b"] : (tensor<1x8x4xf32>) -> tensor<1x2x8x2xf32>
    ```
    """

    name = "graph-compose-moves"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrites in place; new indices go into the store."""
        assert isinstance(ctx, CimContext)
        patterns = GreedyRewritePatternApplier(
            [
                _NoMove(ctx.store),
                _MoveOfMove(ctx.store),
                _ReshapeOfMove(ctx.store),
                MergeReshapes(),
                DropIdentityReshape(),
            ]
        )
        PatternRewriteWalker(patterns, listener=keeping_locations()).rewrite_module(op)
        dce(op)
