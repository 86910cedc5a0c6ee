"""The dialect's text, its types, and what its verifiers refuse."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser
from xdsl.utils.exceptions import ParseError, VerifyException

from cimc.dialects import graph
from cimc.dialects.context import CimContext
from cimc.dialects.graph import Graph, QuantType
from cimc.dialects.graph_products import ConvOp

Parse = Callable[[str], ModuleOp]
Show = Callable[[ModuleOp], str]

U8 = "!graph.quant<u8, 0.5, 128>"


def example(docstring: str) -> str:
    """The fenced mlir block of a docstring."""
    (text,) = re.findall(r"```mlir\n(.*?)```", docstring, re.DOTALL)
    return text


def with_operands(text: str) -> str:
    """``text`` in a function that defines every value it uses."""
    types = re.search(r":\s*\((.*)\)\s*->", text, re.DOTALL)
    assert types is not None
    given = re.findall(r"tensor<[^!]*?>(?=,|$)|tensor<.*?>>", types.group(1))
    used = dict.fromkeys(re.findall(r"(%\w+)", text.split("=", 1)[1]))
    arguments = ", ".join(f"{name}: {type}" for name, type in zip(used, given, strict=True))
    return f"func.func @main({arguments}) {{\n{text}\nfunc.return\n}}"


@pytest.mark.parametrize("operation", list(Graph.operations), ids=lambda op: op.name)
def test_docstring_examples_are_valid_and_round_trip(parse: Parse, show: Show, operation: type) -> None:
    """The example of every operation parses, verifies, and prints to a text that parses to the same."""
    assert operation.__doc__ is not None
    module = parse(with_operands(example(operation.__doc__)))
    assert any(isinstance(op, operation) for op in module.walk())
    text = show(module)
    assert show(parse(text)) == text


def test_the_dialect_example_round_trips(parse: Parse, show: Show) -> None:
    """The function in the head of the dialect's file, with locations on every operation."""
    assert graph.__doc__ is not None
    text = show(parse(example(graph.__doc__)))
    assert 'graph.inputs = ["x"]' in text
    assert show(parse(text)) == text


@given(
    st.integers(2, 16),
    st.booleans(),
    st.integers(1, 0x7F7FFFFF).map(lambda bits: struct.unpack("<f", struct.pack("<I", bits))[0]),
    st.data(),
)
def test_quantised_types_round_trip_to_the_bit(
    bits: int, signed: bool, scale: float, data: st.DataObject
) -> None:
    """Any positive float32 scale, subnormal ones too, parses back to the same bits."""
    low = -(1 << (bits - 1)) if signed else 0
    zero = data.draw(st.integers(low, low + (1 << bits) - 1))
    made = QuantType.of(bits, signed, scale, zero)
    parsed = Parser(CimContext(), str(made)).parse_type()
    assert parsed == made
    assert isinstance(parsed, QuantType)
    assert parsed.scale.tobytes() == np.float32(scale).tobytes()
    assert (parsed.bits, parsed.signed, parsed.zero_point) == (bits, signed, zero)
    assert (parsed.qmin, parsed.qmax) == (low, low + (1 << bits) - 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("!graph.quant<u1, 0.5, 0>", "2 to 16 bits, not 1"),
        ("!graph.quant<u17, 0.5, 0>", "2 to 16 bits, not 17"),
        ("!graph.quant<f8, 0.5, 0>", "u or i and 2 to 16 bits, not f8"),
        ("!graph.quant<u8, 0.0, 0>", "positive and finite"),
        ("!graph.quant<u8, -1.0, 0>", "positive and finite"),
        ("!graph.quant<u8, 1.0e39, 0>", "positive and finite"),
        ("!graph.quant<u8, 0.5, 256>", "zero point 256 is outside 0 .. 255 of u8"),
        ("!graph.quant<i4, 0.5, -9>", "zero point -9 is outside -8 .. 7 of i4"),
    ],
)
def test_malformed_quantised_types(text: str, message: str) -> None:
    """Width, scale and zero point are checked where the type is made."""
    with pytest.raises((ParseError, VerifyException), match=re.escape(message)):
        Parser(CimContext(), text).parse_type()


def conv(**changes: str) -> str:
    parts = {
        "kernel": "<3, 3>", "strides": "<1, 1>", "pads": "<1, 1, 1, 1>", "dilations": "<1, 1>", "group": "1",
        "codes": "", "tensors": '["y"]', "x": "tensor<1x4x6x6xf32>", "y": "tensor<1x6x6x6xf32>",
    } | changes  # fmt: skip
    return (
        '%y = graph.conv %x weight <"w"> kernel {kernel} strides {strides} pads {pads} dilations {dilations} '
        'group {group} {codes} tensors {tensors} : ({x}) -> {y} loc("conv1"("m.onnx":7:0))'
    ).format(**parts)


QUANTISED = {"x": f"tensor<1x4x6x6x{U8}>", "y": f"tensor<1x6x6x6x{U8}>"}
FULL_CODES = 'weight_bits 8 weight_scale <"s"> acc_bits 32'


def test_level_2_conv_verifies(parse: Parse) -> None:
    """All that level 2 adds, with a clamp, is accepted; the clamp is the one given."""
    module = parse(with_operands(conv(**QUANTISED, codes=f"{FULL_CODES} lo 128 hi 250")))
    (op,) = [op for op in module.walk() if isinstance(op, ConvOp)]
    assert op.clamp() == (128, 250)
    assert op.weight_shape() == (6, 4, 3, 3)


def test_without_bounds_the_whole_range_holds(parse: Parse) -> None:
    """lo and hi absent mean the range of the result's type."""
    module = parse(with_operands(conv(**QUANTISED, codes=FULL_CODES)))
    assert [op.clamp() for op in module.walk() if isinstance(op, ConvOp)] == [(0, 255)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (conv(y="tensor<1x6x5x6xf32>"), "result has height and width (5, 6), the windows give (6, 6)"),
        (conv(kernel="<3>"), "kernel needs 2 values of at least 1, got (3,)"),
        (conv(strides="<0, 1>"), "strides needs 2 values of at least 1"),
        (conv(pads="<1, 1>"), "pads needs 4 values of at least 0"),
        (conv(kernel="<9, 9>"), "larger than the padded input (6, 6)"),
        (conv(group="3"), "group 3 must divide 4 input and 6 output channels"),
        (conv(y="tensor<2x6x6x6xf32>"), "batch 1 becomes 2"),
        (conv(x="tensor<1x4x6xf32>"), "works on images (N, C, H, W)"),
        (conv(tensors='["y", "z"]'), "1 results but 2 tensor names"),
        (conv(codes="weight_bits 8"), "weight_bits needs weight_scale"),
        (conv(codes="lo 0 hi 1"), "lo and hi clamp codes, but the result is not quantised"),
        (conv(**QUANTISED), "quantised input needs weight_bits, weight_scale and acc_bits"),
        (conv(**QUANTISED, codes='weight_bits 17 weight_scale <"s"> acc_bits 32'), "2 to 16 bits, not 17"),
        (conv(**QUANTISED, codes='weight_bits 8 weight_scale <"s"> acc_bits 48'), "32 or 64 bits, not 48"),
        (conv(**QUANTISED, codes=f"{FULL_CODES} lo 3"), "lo and hi come together"),
        (conv(**QUANTISED, codes=f"{FULL_CODES} lo 3 hi 256"), "clamp 3 .. 256 is not within 0 .. 255"),
        (conv(**QUANTISED, codes=f"{FULL_CODES} lo 9 hi 8"), "clamp 9 .. 8 is not within"),
        (
            '%y = graph.gemm %x weight <"w"> tensors ["y"] : (tensor<2x3xf32>) -> tensor<4x3xf32>',
            "keeps the others",
        ),
        (
            '%y = graph.max_pool %x kernel <2, 2> strides <2, 2> pads <2, 0, 0, 0> dilations <1, 1> tensors ["y"]'
            " : (tensor<1x4x6x6xf32>) -> tensor<1x4x4x3xf32>",
            "not smaller than the window 2",
        ),
        (
            f'%y = graph.relu %x tensors ["y"] : (tensor<4x{U8}>) -> tensor<4x!graph.quant<u8, 0.25, 128>>',
            "codes pass unchanged",
        ),
        (
            f'%y = graph.add %x, %z tensors ["y"] : (tensor<4x{U8}>, tensor<4xf32>) -> tensor<4xf32>',
            "all f32 or all codes, not mixed",
        ),
        (
            '%y = graph.add %x, %z tensors ["y"] : (tensor<4xf32>, tensor<1xf32>) -> tensor<4xf32>',
            "have one shape",
        ),
        (
            '%y = graph.relu %x tensors ["y"] : (tensor<4xi64>) -> tensor<4xi64>',
            "elements are f32 or codes, not i64",
        ),
        (
            '%y = graph.concat %x axis 0 tensors ["y"] : (tensor<4xf32>) -> tensor<4xf32>',
            "at least two operands",
        ),
        (
            '%y = graph.concat %x, %z axis 1 tensors ["y"] : (tensor<2x3xf32>, tensor<2x4xf32>) -> tensor<2x8xf32>',
            "operands have 7 entries along axis 1, the result 8",
        ),
        (
            '%y = graph.reshape %x tensors ["y"] : (tensor<2x3xf32>) -> tensor<5xf32>',
            "(2, 3) has 6 elements, (5,) has 5",
        ),
        (
            '%y = graph.softmax %x axis 2 tensors ["y"] : (tensor<2x3xf32>) -> tensor<2x3xf32>',
            "axis 2 is not one of 2",
        ),
        (
            f'%y = graph.host "Exp"(%x) model <"m"> reason "r" tensors ["y"] : (tensor<4x{U8}>) -> tensor<4xf32>',
            "the host computes on real values",
        ),
        (
            '%y = graph.quantize %x tensors ["y"] : (tensor<4xf32>) -> tensor<4xf32>',
            "takes f32 and gives codes",
        ),
        (
            '%y = graph.dequantize %x tensors ["y"] : (tensor<4xf32>) -> tensor<4xf32>',
            "takes codes and gives f32",
        ),
        (
            f'%y = graph.storage_cast %x tensors ["y"] : (tensor<4x{U8}>) -> tensor<4xi8>',
            "one side holds codes, the other integers of their storage",
        ),
        (
            '%y = graph.storage_cast %x tensors ["y"] : (tensor<4xui8>) -> tensor<4xi8>',
            "one side holds codes, the other integers of their storage",
        ),
        (
            '%y = graph.storage_cast %x tensors ["y"] : (tensor<4xui16>) -> tensor<4x!graph.quant<u12, 0.5, 9>>',
            "one side holds codes, the other integers of their storage",
        ),
    ],
)
def test_verifiers_refuse_in_one_line(parse: Parse, text: str, message: str) -> None:
    """One line: place, operation, the rule with the given value; never the printed module."""
    with pytest.raises(VerifyException) as caught:
        parse(with_operands(text))
    said = str(caught.value)
    assert message in said
    assert "\n" not in said
    if "loc(" in text:
        assert said.startswith("conv1 (m.onnx:7): graph.conv: ")
