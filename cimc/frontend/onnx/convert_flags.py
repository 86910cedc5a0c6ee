"""Truth values of run time as float32 flags, 1 for true and 0 for false: comparisons, logic, Where.

The digital unit computes in float32, so a tensor of booleans that only such operators read never exists:
``build.flags`` holds its flags. Any other reader, and the border of the graph, gets booleans, which the host makes of
them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto, helper
from xdsl.dialects.builtin import f32
from xdsl.ir import SSAValue

from cimc.dialects.graph import UnaryOp
from cimc.dialects.graph_types import tensor
from cimc.frontend.onnx import convert_shapes
from cimc.frontend.onnx.builder import Builder, Constant
from cimc.frontend.onnx.convert_elementwise import pair, where_constant, with_constant
from cimc.frontend.onnx.convert_quantised import integers_to_float
from cimc.frontend.onnx.host import to_host
from cimc.frontend.onnx.node import Node, ToHost
from cimc.frontend.onnx.structure import node_inputs
from cimc.frontend.onnx.types import element_code

Converter = Callable[[Builder, Node], None]

ONE = np.ones(1, np.float32)
ZERO = np.zeros(1, np.float32)


def compare(function: str, *, turned: bool = False) -> Converter:
    """A comparison of float32 values; ``turned``: ``a > b`` is ``b < a``."""

    def convert(build: Builder, node: Node) -> None:
        order = (1, 0) if turned else (0, 1)
        names = [node.input(position) for position in order]
        build.flags[node.output] = _of_two(build, node, function, names, build.image_or_vector)

    return convert


def logic(function: str) -> Converter:
    """``And`` is the lesser flag, ``Or`` the greater one."""

    def convert(build: Builder, node: Node) -> None:
        names = [node.input(0), node.input(1)]
        build.flags[node.output] = _of_two(build, node, function, names, lambda name: flag(build, name))

    return convert


def exclusive_or(build: Builder, node: Node) -> None:
    """``Xor``: how far the flags are apart."""
    names = [node.input(0), node.input(1)]
    apart = _of_two(build, node, "sub", names, lambda name: flag(build, name), f"{node.output}/apart")
    op = UnaryOp("abs", apart, tensors=[node.output])
    build.add(op, node, node.output)
    build.flags[node.output] = build.values.pop(node.output)


def negation(build: Builder, node: Node) -> None:
    """``Not``: what is missing to 1."""
    given = flag(build, node.input(0))
    build.flags[node.output] = with_constant(build, node, "sub", given, ONE, node.output, swapped=True)
    del build.values[node.output]


def where(build: Builder, node: Node) -> None:
    """``Where``: the value kept where the flag is set, plus the other one where it is not."""
    if node.input(0) in build.constants:
        where_constant(build, node)
        return
    condition = flag(build, node.input(0))
    sides = [("keep", node.input(1)), ("drop", node.input(2))]
    sides = [(f, n) for f, n in sides if n not in build.constants or np.any(build.constants[n].array)]
    if not sides:
        raise ToHost("both of its values are zeros")
    if len(sides) == 1:
        (function, name), *_ = sides
        _chosen(build, node, function, condition, name, node.output)
        return
    # A sum of two values has codes where edges have them; constants of masks are infinite, and no code is.
    sides.sort(key=lambda side: side[1] in build.constants)
    masks = sides[1][1] in build.constants
    first, second = (
        _chosen(build, node, f, condition, n, f"{node.output}/{f}", negated=masks and position == 1)
        for position, (f, n) in enumerate(sides)
    )
    pair(build, node, "sub" if masks else "add", first, second, node.output)


def _chosen(
    build: Builder,
    node: Node,
    function: str,
    condition: SSAValue,
    name: str,
    output: str,
    *,
    negated: bool = False,
) -> SSAValue:
    """What ``keep`` or ``drop`` leaves of an operand; of a constant, ``negated``: of its negative."""
    if name not in build.constants:
        return pair(build, node, function, condition, build.image_or_vector(name, "operand"), output)
    constant = build.any_float_constant(name, "operand")
    return with_constant(build, node, function, condition, -constant if negated else constant, output)


def cast(build: Builder, node: Node) -> None:
    """``Cast`` of a boolean to float32: its flag; of a float32 value to a boolean: whether it is not 0; of integers of
    8 or 16 bits to float32: what they are as codes of scale 1."""
    name, to = node.input(0), node.integer("to", 0)
    if name in build.flags and to in (TensorProto.FLOAT, TensorProto.BOOL):
        kept = build.values if to == TensorProto.FLOAT else build.flags
        kept[node.output] = build.flags[name]
        return
    if name in build.flags:
        raise ToHost("it makes integers of booleans")
    if integers_to_float(build, node):
        return
    value = build.values.get(name)
    if value is None or to != TensorProto.BOOL or tensor(value).get_element_type() != f32:
        convert_shapes.cast(build, node)
        return
    zero = with_constant(build, node, "equal", value, ZERO, f"{node.output}/zero")
    build.flags[node.output] = with_constant(build, node, "sub", zero, ONE, node.output, swapped=True)
    del build.values[node.output]


def cast_like(build: Builder, node: Node) -> None:
    """``CastLike`` to the type of a value: a constant in that type, or another name of a value that has it."""
    wanted = tensor(build.known(node.input(1))).get_element_type()
    given = build.constant(node.input(0))
    if given is None:
        if tensor(build.known(node.input(0))).get_element_type() != wanted:
            raise ToHost("it changes the element type")
        build.alias(node.output, node.input(0))
        return
    dtype = helper.tensor_dtype_to_np_dtype(element_code(wanted))
    build.constants[node.output] = Constant.of(given.astype(dtype))


def moved(convert: Converter) -> Converter:
    """The converter of an operator that only moves elements: of flags it moves the flags."""

    def either(build: Builder, node: Node) -> None:
        names = [name for name in node_inputs(node.proto) if name in build.flags]
        if not names:
            convert(build, node)
            return
        booleans = {name: build.values.pop(name) for name in names if name in build.values}
        build.values |= {name: build.flags[name] for name in names}
        try:
            convert(build, node)
            build.flags |= {name: build.values.pop(name) for name in node.results}
        finally:
            for name in names:
                del build.values[name]
            build.values |= booleans

    return either


def flag(build: Builder, name: str) -> SSAValue:
    """The flags of the booleans ``name``. Raises :class:`ToHost` for booleans that are none of ours."""
    if name not in build.flags:
        raise ToHost(f"its operand {name!r} is booleans of the host, or of the graph's inputs")
    return build.flags[name]


def as_booleans(build: Builder, node: Node, name: str) -> None:
    """Let the host make booleans of the flags ``name``, for readers that know no flags."""
    if name not in build.flags or name in build.values:
        return
    build.values[f"{name}/flags"] = build.flags[name]
    proto = helper.make_node("Cast", [f"{name}/flags"], [name], name=f"{name}/Cast", to=TensorProto.BOOL)
    made = Node.of(proto, node.index, node.name, node.opset, [name])
    to_host(build, made, "its booleans are read by the host, or leave the graph")


def _of_two(
    build: Builder,
    node: Node,
    function: str,
    names: list[str],
    value_of: Callable[[str], SSAValue],
    output: str = "",
) -> SSAValue:
    """A function of two operands, one of which may be a constant; no tensor of the graph is called so."""
    result = output or node.output
    fixed = [position for position, name in enumerate(names) if name in build.constants]
    if not fixed:
        a, b = (value_of(name) for name in names)
        made = pair(build, node, function, a, b, result)
    else:
        (position, *_) = fixed
        array = build.constants[names[position]].array
        if str(array.dtype) not in ("float32", "bool"):
            raise ToHost(f"its constant has elements {array.dtype}, the digital unit takes float32")
        swapped = position == 0
        x = value_of(names[1 - position])
        made = with_constant(build, node, function, x, array.astype(np.float32), result, swapped=swapped)
    if result == node.output:
        del build.values[node.output]
    return made
