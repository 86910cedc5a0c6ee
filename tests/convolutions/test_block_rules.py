"""What blocks of a grouped convolution must keep: in the mapped IR, in placement tables, in programs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from xdsl.parser import Parser
from xdsl.utils.exceptions import VerifyException

from cimc.diagnostics import MismatchError
from cimc.dialects.context import CimContext
from cimc.dialects.weights import WeightRefAttr
from cimc.interpreters.mapped import execute_mapped
from cimc.mapping_options import MappingOptions
from cimc.runtime.verifier import verify_program
from tests.convolutions.models_and_checks import MACHINES, Checked, chain, check, node, normal


@pytest.fixture(scope="module")
def depthwise() -> Checked:
    """48 channels of 3 x 3 taps: two blocks of 24 groups, 12 on a crossbar."""
    rng = np.random.default_rng(2)
    weight = normal(rng, 48, 1, 3, 3, fan_in=9)
    model = chain((1, 48, 5, 5), node("Conv", weight, group=48))
    return check(model, MACHINES["isaac"], frames=1, mapping=MappingOptions(scheduler="none"))


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("<12, 12>", "channels, columns and groups"),
        ("<5, 12, 1>", "do not tile 24 channels"),
        ("<12, 8, 4>", "do not tile 24 channels and 24 columns"),
        ("<12, 12, 5>", "5 groups do not share 12 channels"),
        ("<8, 8, 4>", "72 rows, the arrays have 108"),
    ],
)
def test_a_block_that_does_not_fit_is_no_read(block: str, message: str) -> None:
    """Blocks tile channels and columns alike, groups share a block evenly, rows are those of one block."""
    text = f"""
    builtin.module {{
      %w, %x = "test.op"() : () -> (!cim.arrays<108x24>, tensor<5x5x24x!graph.quant<u8, 0.5, 9>>)
      %acc = cim.read_row %w, %x <3 3 stride 1 1 pad 0 0 0 0 dilation 1 1> block {block}
          : !cim.arrays<108x24>, tensor<5x5x24x!graph.quant<u8, 0.5, 9>> -> tensor<3x3x24xi32>
    }}"""
    ctx = CimContext()
    ctx.allow_unregistered = True
    module = Parser(ctx, text).parse_module()
    with pytest.raises(VerifyException, match=message):
        module.verify()


def test_a_context_sees_one_block(depthwise: Checked) -> None:
    """A table that gives one context the columns of two blocks is refused at its stage."""
    compiled = depthwise.compiled
    module = compiled.modules["mapped"].clone()
    (stage,) = [op for op in module.walk() if op.name == "cim.stage"]
    placement = stage.properties["placement"]
    assert isinstance(placement, WeightRefAttr)
    table = compiled.store.array(placement.key.data).copy()
    first = table[:1]
    first[0, 5], first[0, 8] = 48, 6  # n1 of the first block, and crossbars for that many columns
    key = compiled.store.put(compiled.store.fresh("wide"), first)
    stage.properties["placement"] = WeightRefAttr.of(key)
    x = {"x": np.zeros((1, 48, 5, 5), np.float32)}
    with pytest.raises(MismatchError, match=r"columns 0 … 47 lie in several blocks of 24 columns"):
        execute_mapped(module, compiled.store, x, arch=MACHINES["isaac"])


def test_the_verifier_checks_the_diagonal(depthwise: Checked) -> None:
    """P067: groups share the block evenly, and no row holds weights of two of them."""
    linked = depthwise.compiled.linked
    assert linked is not None
    program = linked.program
    (name,) = program.weights
    weights = {name: depthwise.compiled.store.array(name)}
    assert program["array_sets"]["groups"].tolist() == [24, 24]

    def rules(groups: int, matrix: np.ndarray) -> set[str]:
        sets = {**program["array_sets"], "groups": np.full(2, groups, np.int32)}
        changed = replace(program, tables={**program.tables, "array_sets": sets})
        return {finding.rule for finding in verify_program(changed, weights={name: matrix})}

    assert rules(24, weights[name]) == set()
    assert rules(7, weights[name]) == {"P067"}
    assert rules(0, weights[name]) == {"P067"}
    beside = weights[name].copy()
    assert beside[0, 5] == 0
    beside[0, 5] = 3
    assert rules(24, beside) == {"P067"}
