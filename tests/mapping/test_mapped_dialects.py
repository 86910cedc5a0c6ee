"""The dialects cim, mem and isa: text that reads back, verifiers that name what is wrong, and what levels allow."""

# ruff: noqa: E501 (operations of the IR are one line each)

from __future__ import annotations

import pytest
from xdsl.parser import Parser
from xdsl.utils.exceptions import ParseError, VerifyException

from cimc.diagnostics import CimError
from cimc.dialects.context import CimContext
from cimc.dialects.levels import check_level
from cimc.driver import print_module

U8 = "!graph.quant<u8, 0.1, 3>"
"""The codes of most cases."""

CODING = "coding <weight_bits 8, weight_encoding offset, input_bits 8, input_min 0>"

STAGE = f"""
builtin.module {{
  func.func @main() attributes {{graph.inputs = ["x"], graph.outputs = ["y"]}} {{
    %x = mem.input "x" frame <2, 6, 6> tensors ["x"] : tensor<6x6x2x{U8}> loc("x"("m.onnx":0:0))
    %y = cim.stage "conv1" copies 2(%x) frame <4, 6, 6> placement <"place"> tensors ["y"] : (tensor<6x6x2x{U8}>) -> tensor<6x6x4x{U8}> {{
    ^bb0(%a: tensor<6x6x2x{U8}>):
      %w = cim.write_row <"m"> grid <2, 1> {CODING} : !cim.arrays<18x4>
      %acc = cim.read_row %w, %a <3 3 stride 1 1 pad 1 1 1 1 dilation 1 1> steps <"h"> : !cim.arrays<18x4>, tensor<6x6x2x{U8}> -> tensor<6x6x4xi32>
      %q = cim.requantise %acc constant <"c"> multiplier <"f"> lo 3 hi 255 : tensor<6x6x4xi32> -> tensor<6x6x4x{U8}>
      cim.yield %q : tensor<6x6x4x{U8}>
    }} loc("conv1"("m.onnx":1:0))
    mem.output "y" frame <4, 6, 6> %y : tensor<6x6x4x{U8}>
    func.return
  }}
}}
"""
"""A legal mapped module, which the cases below spoil."""

OTHERS = """
builtin.module {
  func.func @main() attributes {graph.inputs = ["x"], graph.outputs = ["y"]} {
    %x = mem.input "x" frame <2, 6, 6> : tensor<6x6x2xf32>
    %c = cim.concat(%x, %x) tensors ["c"] : (tensor<6x6x2xf32>, tensor<6x6x2xf32>) -> tensor<6x6x4xf32>
    %r = mem.relayout %c from <4, 6, 6> to <144> tensors ["r"] : tensor<6x6x4xf32> -> tensor<1x1x144xf32>
    %h = mem.host_call "Erf" <"erf"> (%r) sources <1, 144> ranks <2> targets <1, 144> ranks <2> : (tensor<1x1x144xf32>) -> tensor<1x1x144xf32>
    %s = cim.stage "tail"(%h) frame <144> : (tensor<1x1x144xf32>) -> tensor<1x1x144xf32> {
    ^bb0(%a: tensor<1x1x144xf32>):
      %b = cim.dcom clamp(%a) fmin #builtin.float_data<0.0> : (tensor<1x1x144xf32>) -> tensor<1x1x144xf32>
      %d = cim.dcom softmax(%b) : (tensor<1x1x144xf32>) -> tensor<1x1x144xf32>
      cim.yield %d : tensor<1x1x144xf32>
    }
    mem.output "y" frame <144> %s : tensor<1x1x144xf32>
    func.return
  }
}
"""

ATTENTION = """
builtin.module {
  func.func @main() attributes {graph.inputs = ["x"], graph.outputs = ["y"]} {
    %x = mem.input "x" frame <5, 12> : tensor<5x1x12xf32>
    %q = cim.view %x starts <0, 2> : tensor<5x1x12xf32> -> tensor<5x2x2xf32>
    %k = cim.view %x starts <4, 6> : tensor<5x1x12xf32> -> tensor<5x2x2xf32>
    %s = cim.stage "scores"(%q, %k) frame <2, 5, 5> strides <5, 25, 1> waits <0> : (tensor<5x2x2xf32>, tensor<5x2x2xf32>) -> tensor<5x2x5xf32> {
    ^bb0(%a: tensor<5x2x2xf32>, %b: tensor<5x2x2xf32>):
      %m = cim.frame_product %a, %b by_columns : tensor<5x2x2xf32>, tensor<5x2x2xf32> -> tensor<5x2x5xf32>
      cim.yield %m : tensor<5x2x5xf32>
    }
    %y = cim.view %s starts <0> : tensor<5x2x5xf32> -> tensor<5x1x10xf32>
    mem.output "y" frame <5, 10> %y : tensor<5x1x10xf32>
    func.return
  }
}
"""

BODY = """
builtin.module {
  isa.body "conv1.main" node "conv1" params ["arrays", "x", "turns", "routes"] {
    isa.write <"arrays"> <0> <16> by_row
    isa.loop images {
      isa.loop count <"turns"> {
        isa.recv <"x"> <1>
        isa.read <"arrays"> <0> <16> by_row source <"x"[0, 0] cols [0, 0, 64]> window <0> to <3[0, 0]> n <4>
        isa.alu "requantise" to <4[0, 0] rows [0, 1]> from <3[0, 0]> and <-1[0, 0]> n <4> m <6> record <0>
        isa.copy to <4[0, 0]> from <3[0, 0]> pattern <1>
        isa.send <4[0, 0]> n <4> m <6> row <-1[0, 0] rows [0, 2]> routes <"routes"> tap <0> <0> <0>
        isa.free <"x"> <1>
      }
    }
    isa.dma <0> row <-1[0, 0]> buffer <4[0, 0]> n <4> m <6> out
    isa.host 0
  } loc("conv1"("m.onnx":1:0))
}
"""


BORDER = f"""
builtin.module {{
  func.func @main() attributes {{graph.inputs = ["x"], graph.outputs = ["y"]}} {{
    %x = mem.input "x" frame <12> tensors ["x"] : tensor<1x1x12xui8>
    %q = cim.storage_cast %x : tensor<1x1x12xui8> -> tensor<1x1x12x{U8}>
    %y = cim.storage_cast %q : tensor<1x1x12x{U8}> -> tensor<1x1x12xui8>
    mem.output "y" frame <12> %y : tensor<1x1x12xui8>
    func.return
  }}
}}
"""


@pytest.mark.parametrize(
    "text", [STAGE, OTHERS, ATTENTION, BORDER, BODY], ids=["stage", "chip", "heads", "border", "body"]
)
def test_text_reads_back(text: str) -> None:
    """Print, parse, print is the identity, locations included."""
    context = CimContext()
    module = Parser(context, text).parse_module()
    module.verify()
    printed = print_module(module)
    assert print_module(Parser(context, printed).parse_module()) == printed
    if 'loc("' in text:
        assert 'loc("conv1"("m.onnx":1:0))' in printed


SPOILT = [
    (STAGE, "grid <2, 1>", "grid <2>", "a tile grid is row tiles x column tiles"),
    (STAGE, "!cim.arrays<18x4>", "!cim.arrays<17x4>", "a window of 3x3x2 is 18 rows, the arrays have 17"),
    (STAGE, "tensor<6x6x4xi32>", "tensor<6x6x4xi16>", "a read delivers i32 or i64 sums"),
    (STAGE, "pad 1 1 1 1", "pad 0 0 0 0", r"the window gives \(4, 4, 4\) sums"),
    (STAGE, "lo 3 hi 255", "lo 3", "codes are clamped by lo and hi"),
    (STAGE, "input_bits 8", "input_bits 9", "the arrays' coding has input_bits 9, the source's codes 8"),
    (STAGE, "input_min 0", "input_min -128", "the arrays' coding has input_min -128, the source's codes 0"),
    (STAGE, "copies 2", "copies 0", "at least one copy"),
    (STAGE, "cim.yield %q : tensor<6x6x4x!graph.quant<u8, 0.1, 3>>", "cim.yield %acc : tensor<6x6x4xi32>",
     "ends in a cim.yield of its result's type"),
    (STAGE, 'mem.input "x" frame <2, 6, 6>', 'mem.input "x" frame <2, 6, 5>', "differ in size"),
    (STAGE, "mem.output \"y\" frame <4, 6, 6>", "mem.output \"y\" frame <4, 6>", "differ in size"),
    (STAGE, "stride 1 1", "stride 0 1", "a window has positive kernel, strides"),
    (OTHERS, '(%x, %x) tensors ["c"] : (tensor<6x6x2xf32>, tensor<6x6x2xf32>)',
     '(%x) tensors ["c"] : (tensor<6x6x2xf32>)', "do not add up to 4"),
    (OTHERS, "to <144>", "to <143>", "the same number of elements"),
    (OTHERS, "sources <1, 144>", "sources <1, 143>", "differ in size"),
    (OTHERS, "softmax(%b)", "add(%b)", "add takes 2 operands, got 1"),
    (OTHERS, "softmax(%b)", "max_pool(%b)", "max_pool needs a window"),
    (OTHERS, "softmax(%b)", "max_pool(%b) window <1 1 stride 1 1 pad 0 0 0 2 dilation 1 1>",
     r"the window gives \(1, 3, 144\), the result has \(1, 1, 144\)"),
    (ATTENTION, "starts <0, 2>", "starts <0>", "1 starts in 5 rows do not give 5 x 2"),
    (ATTENTION, "starts <4, 6>", "starts <4, 11>", "2 elements from each start leave the 12 of a row"),
    (ATTENTION, "-> tensor<5x1x10xf32>\n    mem.output \"y\" frame <5, 10> %y : tensor<5x1x10xf32>",
     "-> tensor<5x1x10xi32>\n    mem.output \"y\" frame <5, 10> %y : tensor<5x1x10xi32>", "the element types differ"),
    (ATTENTION, " by_columns", "", r"rows \(5, 2, 2\) by a frame \(5, 2, 2\) do not give \(5, 2, 5\)"),
    (BORDER, 'tensor<1x1x12xui8>\n    %q = cim.storage_cast %x : tensor<1x1x12xui8>',
     'tensor<1x12x1xui8>\n    %q = cim.storage_cast %x : tensor<1x12x1xui8>',
     r"keeps the shape, got \(1, 12, 1\) to \(1, 1, 12\)"),
    (BORDER, 'tensor<1x1x12xui8>\n    mem.output "y" frame <12> %y : tensor<1x1x12xui8>',
     'tensor<1x1x12xi8>\n    mem.output "y" frame <12> %y : tensor<1x1x12xi8>',
     "the other integers of their storage"),
    (BODY, '"turns", "routes"]', '"turns"]', "names parameters the body has not: routes"),
    (BODY, '"arrays", "x"', '"x", "x"', "parameters have different names"),
    (BODY, 'isa.loop count <"turns">', "isa.loop", "a loop counts images, or has a count"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "good", "bad", "says"), SPOILT, ids=[case[3][:40] for case in SPOILT])
def test_verifiers_name_what_is_wrong(text: str, good: str, bad: str, says: str) -> None:
    """One fault in a legal module is refused with the rule it breaks."""
    assert good in text
    with pytest.raises((VerifyException, ParseError), match=says):
        Parser(CimContext(), text.replace(good, bad)).parse_module().verify()


def test_loops_nest_to_a_depth() -> None:
    """Six loops are what an instruction's strides can follow."""
    inner = "isa.host 0"
    for _ in range(7):
        inner = f"isa.loop count <2> {{ {inner} }}"
    text = f'builtin.module {{ isa.body "b" node "n" params [] {{ {inner} }} }}'
    with pytest.raises(VerifyException, match="loops nest to depth 6, got 7"):
        Parser(CimContext(), text).parse_module().verify()


def test_errors_are_one_located_line() -> None:
    """A verifier's message begins with the node and its place in the model."""
    spoilt = STAGE.replace("copies 2", "copies 0")
    with pytest.raises(
        VerifyException, match=r"^conv1 \(m.onnx:1\): cim.stage: a stage has at least one copy"
    ):
        Parser(CimContext(), spoilt).parse_module().verify()


@pytest.mark.parametrize(
    ("text", "level", "says"),
    [
        (STAGE, "isa", r"cim.stage: is not legal at level 'isa'"),
        (BODY, "mapped", r"isa.body: is not legal at level 'mapped'"),
        (STAGE, "quantised", r"mem.input: is not legal at level 'quantised'"),
    ],
)
def test_levels_refuse_what_belongs_elsewhere(text: str, level: str, says: str) -> None:
    """Stages are legal at the mapped level only, bodies at the instruction level only."""
    module = Parser(CimContext(), text).parse_module()
    check_level(module, "isa" if text is BODY else "mapped")
    with pytest.raises(CimError, match=says):
        check_level(module, level)


def test_meta_operators_stand_in_stages() -> None:
    """A read outside a stage has no contexts to run in, and a stage that reads must program what it reads."""
    text = f"""
    builtin.module {{
      func.func @main() attributes {{graph.inputs = ["x"], graph.outputs = []}} {{
        %w = cim.write_row <"m"> grid <2, 1> {CODING} : !cim.arrays<18x4>
        func.return
      }}
    }}
    """
    module = Parser(CimContext(), text).parse_module()
    with pytest.raises(CimError, match="breaks a rule of level 'mapped': meta-operators stand in a stage"):
        check_level(module, "mapped")
