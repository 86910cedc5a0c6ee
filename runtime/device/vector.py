"""Small pieces of code that numba itself cannot express: 32-bit arithmetic, a tile of dot products, 16 normals.

Plain integer arithmetic in numba is 64 bits wide, which halves the lanes of a vector. The tile keeps its sums in
registers, which LLVM does not find in loops over arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cimc.runtime.device.normals import PART_BITS, POSITION_BITS, STEP_BITS

TILE_ROWS = 16
"""Rows of digits in a tile."""
LANES = 16
"""Columns in a tile: one vector of int32."""

_WORD = ir.IntType(32)
_INDEX = ir.IntType(64)
_LANES = ir.VectorType(_WORD, LANES)


def _constant(values: list[int]) -> Any:
    """A vector of 16 int32."""
    return ir.Constant(_LANES, values)


def _operation(emit: Callable[[Any, Any, Any], Any]) -> Any:
    """A two-operand int32 operation that wraps instead of widening."""

    @intrinsic
    def operation(_: Any, a: Any, b: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return emit(builder, *arguments)

        return types.int32(types.int32, types.int32), code

    return operation


add32 = _operation(lambda builder, a, b: builder.add(a, b))
mul32 = _operation(lambda builder, a, b: builder.mul(a, b))
shl32 = _operation(lambda builder, a, b: builder.shl(a, b))
sar32 = _operation(lambda builder, a, b: builder.ashr(a, b))


def has_dot_products() -> bool:
    """Whether this machine multiplies and adds pairs of int16 in one instruction (AVX-512 VNNI)."""
    return "avx512vnni" in llvmlite.binding.get_host_cpu_features()


def dot_tile(bits: int, fused: bool) -> Any:
    """``tile(x, x_at, stride, w, w_at, steps, out, out_at)``: 16 x 16 dot products, sums in int32.

    ``out[out_at + 16 r + n] = sum x[x_at + r * stride + q s + c] * w[w_at + 16 q s + q n + c]`` over ``steps``
    steps s, at least one, and c below q, where q is 2 for ``bits`` 16 and 4 for 8; flat arrays. Both factors are
    int16, or x is int8 and w uint8. ``fused`` emits the instructions of :func:`has_dot_products`, the other form is
    plain vector code for any machine; both wrap at 32 bits.
    """
    lanes = _LANES
    count = 32 // bits
    pieces = ir.VectorType(ir.IntType(bits), count * LANES)

    def _accumulate(builder: Any, total: Any, x: Any, w: Any) -> Any:
        if fused:
            name = "vpdpwssd" if bits == 16 else "vpdpbusd"
            kind = ir.FunctionType(lanes, [lanes] * 3)
            multiply = builder.module.declare_intrinsic(f"llvm.x86.avx512.{name}.512", (), kind)
            return builder.call(multiply, [total, w, x])
        wide_x, wide_w = builder.bitcast(x, pieces), builder.bitcast(w, pieces)
        for c in range(count):
            pick = _constant([count * n + c for n in range(LANES)])
            a = builder.sext(builder.shuffle_vector(wide_x, wide_x, pick), lanes)
            extend = builder.sext if bits == 16 else builder.zext
            b = extend(builder.shuffle_vector(wide_w, wide_w, pick), lanes)
            total = builder.add(total, builder.mul(a, b))
        return total

    def _code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, x_at, stride, w, w_at, steps, out, out_at = arguments
        pointers = [
            builder.gep(context.make_array(kind)(context, builder, array).data, [at])
            for kind, array, at in zip(signature.args[0:7:3], (x, w, out), (x_at, w_at, out_at), strict=True)
        ]
        before = builder.block
        loop = builder.append_basic_block("steps")
        done = builder.append_basic_block("stored")
        builder.branch(loop)
        builder.position_at_end(loop)
        p = builder.phi(_INDEX)
        sums = [builder.phi(lanes) for _ in range(TILE_ROWS)]
        source = builder.gep(pointers[1], [builder.mul(p, ir.Constant(_INDEX, count * LANES))])
        weights = builder.load(builder.bitcast(source, lanes.as_pointer()))
        weights.align = 1
        column = builder.mul(p, ir.Constant(_INDEX, count))
        found: list[Any] = []
        for r, total in enumerate(sums):
            at = builder.add(builder.mul(stride, ir.Constant(_INDEX, r)), column)
            pair = builder.load(builder.bitcast(builder.gep(pointers[0], [at]), _WORD.as_pointer()))
            pair.align = 1
            one = builder.insert_element(ir.Constant(lanes, ir.Undefined), pair, ir.Constant(_WORD, 0))
            digits = builder.shuffle_vector(one, one, _constant([0] * LANES))
            found.append(_accumulate(builder, total, digits, weights))
        after = builder.add(p, ir.Constant(_INDEX, 1))
        builder.cbranch(builder.icmp_signed("<", after, steps), loop, done)
        p.add_incoming(ir.Constant(_INDEX, 0), before)
        p.add_incoming(after, loop)
        for total, summed in zip(sums, found, strict=True):
            total.add_incoming(_constant([0] * LANES), before)
            total.add_incoming(summed, loop)
        builder.position_at_end(done)
        for r, summed in enumerate(found):
            target = builder.gep(pointers[2], [ir.Constant(_INDEX, LANES * r)])
            builder.store(summed, builder.bitcast(target, lanes.as_pointer())).align = 4
        return context.get_dummy_value()

    @intrinsic
    def tile(
        _: Any, x: Any, x_at: Any, stride: Any, w: Any, w_at: Any, steps: Any, out: Any, out_at: Any
    ) -> Any:
        index = types.intp
        return types.void(x, index, index, w, index, index, out, index), _code

    return tile


def _normal_tile(_: Any, words: Any, at: Any, table: Any, out: Any) -> Any:
    """``out[at : at + 16]`` = normals of ``words[at : at + 16]``, int32 in units of 2^-16, equal to ``normal_units``.

    ``words`` and ``table`` (:func:`~cimc.runtime.device.normals.quantile_table`) are taken as int32 arrays. Entries
    are fetched one by one: as fast as the gather instruction, and in plain code.
    """

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        words_array, place, table_array, out_array = arguments

        def data(argument: int, array: Any) -> Any:
            return context.make_array(signature.args[argument])(context, builder, array).data

        def all_of(value: int) -> Any:
            return _constant([value] * LANES)

        word = builder.load(builder.bitcast(builder.gep(data(0, words_array), [place]), _LANES.as_pointer()))
        word.align = 4
        odd = builder.or_(builder.shl(word, all_of(1)), all_of(1))
        kind = ir.FunctionType(_LANES, [_LANES, ir.IntType(1)])
        count = builder.module.declare_intrinsic("llvm.ctlz.v16i32", (), kind)
        zeros = builder.call(count, [odd, ir.Constant(ir.IntType(1), 1)])
        aligned = builder.shl(odd, zeros)
        part = builder.and_(builder.lshr(aligned, all_of(31 - PART_BITS)), all_of((1 << PART_BITS) - 1))
        index = builder.add(builder.shl(builder.sub(all_of(31), zeros), all_of(PART_BITS)), part)
        source = data(2, table_array)
        entry = ir.Constant(_LANES, ir.Undefined)
        for n in range(LANES):
            lane = ir.Constant(_WORD, n)
            spot = builder.zext(builder.extract_element(index, lane), _INDEX)
            entry = builder.insert_element(entry, builder.load(builder.gep(source, [spot])), lane)
        down = all_of(31 - PART_BITS - POSITION_BITS)
        position = builder.and_(builder.lshr(aligned, down), all_of((1 << POSITION_BITS) - 1))
        step = builder.and_(entry, all_of((1 << STEP_BITS) - 1))
        fall = builder.lshr(builder.mul(step, position), all_of(POSITION_BITS))
        size = builder.sub(builder.lshr(entry, all_of(STEP_BITS)), fall)
        sign = builder.ashr(word, all_of(31))
        normal = builder.sub(builder.xor(size, sign), sign)
        target = builder.bitcast(builder.gep(data(3, out_array), [place]), _LANES.as_pointer())
        builder.store(normal, target).align = 4
        return context.get_dummy_value()

    return types.void(words, types.intp, table, out), code


normal_tile: Any = intrinsic(_normal_tile)
