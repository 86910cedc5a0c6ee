"""Operators between conversions, and the same operators on codes, give the same codes.

After ``quantise-activations`` a program computes with real numbers between conversions; the passes
after it move the arithmetic to integers. For everything but products, whose weights change too, both
programs must agree on every code: docs/numerics.md section 0 rules 5, 8, 9 and 10.
"""

from collections.abc import Iterable

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser
from xdsl.passes import ModulePass

from cimc.calibration import collect_ranges, load_samples
from cimc.dialects.context import CimContext
from cimc.dialects.graph import main_function
from cimc.dialects.levels import check_level
from cimc.interpreters.quantised import execute_quantised
from cimc.passes.quantise.options import QuantOptions
from cimc.passes.quantise.ranges import put_ranges

NETWORKS = {
    "residual": """
      %p = graph.max_pool %x kernel <3, 3> strides <2, 2> pads <1, 1, 1, 1> dilations <1, 1> tensors ["p"] : (T) -> S
      %a = graph.average_pool %x kernel <3, 3> strides <2, 2> pads <1, 1, 1, 1> dilations <1, 1>
          count_include_pad false tensors ["a"] : (T) -> S
      %s = graph.add %p, %a tensors ["s"] : (S, S) -> S
      %r = graph.relu %s tensors ["r"] : (S) -> S
      %y = graph.add %r, %p tensors ["y"] : (S, S) -> S
      func.return %y : S""",
    "concat": """
      %p = graph.max_pool %x kernel <2, 2> strides <2, 2> pads <0, 0, 0, 0> dilations <1, 1> tensors ["p"] : (T) -> S
      %a = graph.add %p, %p tensors ["a"] : (S, S) -> S
      %c = graph.clip %a min -0.5 max 1.0 tensors ["c"] : (S) -> S
      %k = graph.concat %p, %c, %a axis 1 tensors ["k"] : (S, S, S) -> K
      %r = graph.relu %k tensors ["r"] : (K) -> K
      %g = graph.global_average_pool %r tensors ["g"] : (K) -> G
      %y = graph.reshape %g tensors ["y"] : (G) -> V
      func.return %y : V""",
    "clamped input": """
      %r = graph.relu %x tensors ["r"] : (T) -> T
      %c = graph.clip %r max 0.75 tensors ["c"] : (T) -> T
      %y = graph.max_pool %c kernel <2, 2> strides <2, 2> pads <0, 0, 0, 0> dilations <1, 1> tensors ["y"] : (T) -> S
      func.return %y : S""",
}
TYPES = {
    "T": "tensor<1x3x8x8xf32>",
    "S": "tensor<1x3x4x4xf32>",
    "K": "tensor<1x9x4x4xf32>",
    "G": "tensor<1x9x1x1xf32>",
    "V": "tensor<1x9xf32>",
}


def network(name: str) -> tuple[CimContext, ModuleOp]:
    """One of NETWORKS at level 1; its types are written as the letters of TYPES."""
    body = NETWORKS[name]
    result = body.rsplit(": ", 1)[1]
    text = (
        f'func.func @main(%x: T) -> {result} attributes {{"graph.inputs" = ["x"], "graph.outputs" = ["y"]}} '
        f"{{ {body} }}"
    )
    for letter, type in TYPES.items():
        text = text.replace(f"({letter}", f"({type}").replace(f"{letter})", f"{type})")
        text = text.replace(f", {letter},", f", {type},").replace(f": {letter}", f": {type}")
        text = text.replace(f"-> {letter}", f"-> {type}")
    context = CimContext()
    return context, Parser(context, f"builtin.module {{ {text} }}").parse_module()


def applied(passes: Iterable[ModulePass], context: CimContext, module: ModuleOp) -> ModuleOp:
    copy = module.clone()
    for step in passes:
        step.apply(context, copy)
        copy.verify()
    return copy


@pytest.mark.parametrize(
    "options", [(8, False, False), (8, True, False), (8, False, True), (4, False, False)]
)
@pytest.mark.parametrize("name", NETWORKS)
def test_codes_equal_conversions_around_real_operators(name: str, options: tuple[int, bool, bool]) -> None:
    """Equal outputs on data inside and outside the calibrated range; no real operator is left."""
    bits, signed, symmetric = options
    context, module = network(name)
    rng = np.random.default_rng(3)
    samples = rng.normal(size=(4, 3, 8, 8)).astype(np.float32)
    put_ranges(context.store, collect_ranges(module, context.store, load_samples({"x": samples}, module)))
    passes = QuantOptions("all", bits, signed, symmetric).passes()
    between = applied(passes[:1], context, module)
    codes = applied(passes, context, module)
    check_level(codes, "quantised")
    names = [op.name for op in main_function(codes).body.block.ops]
    assert names.count("graph.quantize") == names.count("graph.dequantize") == 1
    for image in (*samples, 3 * samples[0]):
        real = execute_quantised(between, context.store, {"x": image[np.newaxis]}).outputs["y"]
        integer = execute_quantised(codes, context.store, {"x": image[np.newaxis]})
        np.testing.assert_array_equal(integer.outputs["y"], real)
        assert len(np.unique(integer.integer_outputs["y"])) > 1


def test_activations_behind_other_uses_stay() -> None:
    """In 'residual' the second relu-free path keeps the pool's codes: only the fused Relu is gone."""
    context, module = network("residual")
    samples = np.random.default_rng(4).normal(size=(2, 3, 8, 8)).astype(np.float32)
    put_ranges(context.store, collect_ranges(module, context.store, load_samples({"x": samples}, module)))
    codes = applied(QuantOptions("all").passes(), context, module)
    names = [op.name.removeprefix("graph.") for op in main_function(codes).body.block.ops]
    assert names == ["quantize", "max_pool", "average_pool", "add", "add", "dequantize", "func.return"]
