"""What is legal at each level, and the order of definitions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser
from xdsl.utils.exceptions import VerifyException

from cimc.diagnostics import ErrorList, UnsupportedError
from cimc.dialects.base import check_definition_order
from cimc.dialects.context import CimContext
from cimc.dialects.levels import check_level, level_named

Parse = Callable[[str], ModuleOp]

FLOAT = """
func.func @main(%x: tensor<2x3xf32>) -> tensor<2x4xf32> attributes {"graph.inputs" = ["x"], "graph.outputs" = ["y"]} {
  %y = graph.gemm %x weight <"w"> tensors ["y"] : (tensor<2x3xf32>) -> tensor<2x4xf32> loc("fc"("m.onnx":0:0))
  func.return %y : tensor<2x4xf32>
}
"""
INTEGER = """
func.func @main(%x: tensor<2x3xf32>) -> tensor<2x4xf32> {
  %q = graph.quantize %x tensors ["q"]
    : (tensor<2x3xf32>) -> tensor<2x3x!graph.quant<u8, 0.5, 3>> loc("in"("m.onnx":0:0))
  %y = graph.gemm %q weight <"w"> weight_bits 8 weight_scale <"s"> acc_bits 32 tensors ["y"]
    : (tensor<2x3x!graph.quant<u8, 0.5, 3>>) -> tensor<2x4xf32>
  func.return %y : tensor<2x4xf32>
}
"""
AFFINE = """
func.func @main(%x: tensor<2x3xf32>) -> tensor<2x3xf32> {
  %a = graph.affine %x scale <"s"> shift <"t"> axis 1 of "Mul" tensors ["a"]
    : (tensor<2x3xf32>) -> tensor<2x3xf32>
  %y = graph.affine %a scale <"s"> shift <"t"> axis 1 of "Mul" tensors ["y"]
    : (tensor<2x3xf32>) -> tensor<2x3xf32>
  func.return %y : tensor<2x3xf32>
}
"""


@pytest.mark.parametrize(
    ("text", "level"), [(FLOAT, "imported"), (FLOAT, "graph"), (INTEGER, "quantised"), (AFFINE, "imported")]
)
def test_programs_are_legal_at_their_level(parse: Parse, text: str, level: str) -> None:
    """Each level accepts its own programs."""
    check_level(parse(text), level)


@pytest.mark.parametrize(
    ("text", "level", "messages"),
    [
        (FLOAT, "quantised", ["fc (m.onnx:0): graph.gemm: breaks a rule of level 'quantised': products with static"]),
        (INTEGER, "graph", ["graph.gemm: breaks a rule of level 'graph': operators work on real values; codes pass"]),
        (AFFINE, "graph", ["graph.affine: is not legal at level 'graph'; run the pass graph-fold-batch-norm"] * 2),
    ],
)  # fmt: skip
def test_every_breach_is_reported(parse: Parse, text: str, level: str, messages: list[str]) -> None:
    """All operations that do not belong, in order, each with its place and the remedy."""
    with pytest.raises(UnsupportedError if len(messages) == 1 else ErrorList) as caught:
        check_level(parse(text), level)
    lines = str(caught.value).split("\n")
    assert len(lines) == len(messages)
    assert all(line.startswith(message) for line, message in zip(lines, messages, strict=True))


def test_codes_do_not_cross_the_border_of_main(parse: Parse) -> None:
    """@main takes and returns real values at level 2 too."""
    text = INTEGER.replace("tensor<2x4xf32>", "tensor<2x4x!graph.quant<u8, 0.5, 3>>")
    with pytest.raises(UnsupportedError, match="@main takes and returns real values"):
        check_level(parse(text), "quantised")


def test_use_before_definition_is_found() -> None:
    """xDSL's verifier does not look at the order; the level check does."""
    head, first, second, *rest = AFFINE.strip().replace("\n    :", " :").split("\n")
    text = "\n".join([head, second, first, *rest])
    module = Parser(CimContext(), text).parse_module()
    module.verify()
    with pytest.raises(VerifyException, match=r"graph.affine: operand 0 is used before its definition"):
        check_definition_order(module)
    with pytest.raises(UnsupportedError, match="used before its definition"):
        check_level(module, "imported")


def test_unknown_level() -> None:
    """The levels there are stand in the message."""
    with pytest.raises(
        ValueError, match="no level 'assembly'; there are imported, graph, quantised, mapped, isa"
    ):
        level_named("assembly")


@pytest.mark.parametrize("name", ["imported", "graph", "quantised", "mapped", "isa"])
def test_every_level_has_a_table(name: str) -> None:
    """A level's table carries its name, one sentence, and legal operations."""
    level = level_named(name)
    assert level.name == name
    assert level.says
    assert level.legal
