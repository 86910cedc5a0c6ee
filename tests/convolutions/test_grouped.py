"""Grouped and depthwise convolutions: several groups to an array, blocks of groups side by side."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

from cimc.dialects.graph import ConvOp, tensor_names
from cimc.interpreters.quantised import execute_quantised
from cimc.mapping_options import MappingOptions
from cimc.verification.integer_oracles import product_error
from tests.convolutions.models_and_checks import EXACT, MACHINES, chain, check, machine, node, normal

FORMS = {
    # channels, filters, groups, kernel, strides, pads, dilations
    "depthwise": (24, 24, 24, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    "depthwise, stride 2": (12, 12, 12, (3, 3), (2, 2), (0, 1, 1, 0), (1, 1)),
    "two filters a channel": (6, 12, 6, (3, 2), (1, 2), (1, 0, 1, 1), (1, 1)),
    "dilated groups": (12, 8, 4, (3, 3), (1, 1), (2, 2, 2, 2), (2, 2)),
    "two groups larger than an array": (20, 26, 2, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    "groups of one tap": (14, 21, 7, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1)),
}


def grouped(form: str, seed: int = 1, size: tuple[int, int] = (7, 6)) -> ModelProto:
    """A 1x1 convolution before and behind the grouped one, so that rings of both sides have blocks."""
    channels, filters, groups, kernel, strides, pads, dilations = FORMS[form]
    rng = np.random.default_rng(seed)
    depth = channels // groups * kernel[0] * kernel[1]
    return chain(
        (1, 5, *size),
        node("Conv", normal(rng, channels, 5, 1, 1, fan_in=5)),
        node(
            "Conv",
            normal(rng, filters, channels // groups, *kernel, fan_in=depth),
            normal(rng, filters, fan_in=9),
            group=groups,
            strides=strides,
            pads=pads,
            dilations=dilations,
        ),
        node("Relu"),
        node("Conv", normal(rng, 4, filters, 1, 1, fan_in=filters)),
    )


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("form", FORMS)
def test_every_level_agrees(form: str, name: str) -> None:
    """Level 1 is onnxruntime's, level 2, the mapped level and the stream are the same integers."""
    checked = check(grouped(form), MACHINES[name])
    assert checked.hosts == []
    reads = [stage.read for stage in checked.stages]
    assert sum(read is not None and read.block is not None for read in reads) == 1
    assert (name in EXACT) == all(read is not None and read.steps is None for read in reads)


@pytest.mark.parametrize("copies", [2, 3])
def test_copies(copies: int) -> None:
    """Blocks are dealt to copies as other blocks are, also where chunks of rows end in different contexts."""
    for form in ("depthwise", "two groups larger than an array"):
        check(
            grouped(form),
            machine(rows=21, columns=45, parallel_rows=5, adcs=45, crossbars=2),
            mapping=MappingOptions(copies=copies),
        )


def test_the_definition_walked() -> None:
    """One window, digit and conversion at a time gives the same."""
    check(grouped("dilated groups", size=(4, 4)), MACHINES["odd flip"], frames=1, walk=True)


@pytest.mark.parametrize(
    ("form", "block", "crossbars"),
    [
        # 128 rows hold 14 windows of 9 taps, the largest divisor of 24 below is 12: two arrays, one above the other,
        # whose 216 rows take 9 steps on three and 14 on two
        ("depthwise", (24, 24, 24), 3),
        ("depthwise, stride 2", (12, 12, 12), 1),
        # 6 rows and 2 columns a group
        ("two filters a channel", (6, 12, 6), 1),
        # 27 rows, 2 columns a group: all 4 groups
        ("dilated groups", (12, 8, 4), 1),
        # 90 rows, 13 of 32 columns a group: a group an array, both above each other
        ("two groups larger than an array", (20, 26, 2), 2),
        ("groups of one tap", (14, 21, 7), 1),
    ],
)
def test_groups_are_packed(form: str, block: tuple[int, int, int], crossbars: int) -> None:
    """On arrays of 128 rows and 32 weights of 8 bits: as many groups as fit one, or twice as many on two or three."""
    checked = check(grouped(form), MACHINES["isaac"], mapping=MappingOptions(copies=1), frames=1)
    (stage,) = [s for s in checked.stages if s.read is not None and s.read.block is not None]
    assert stage.read is not None
    assert stage.read.block is not None
    assert stage.read.block.data == block
    # The 1x1 convolutions before and behind take an array each: at most 26 columns of 32.
    assert checked.crossbars == crossbars + 2


def test_products_off_the_diagonal_are_not_counted() -> None:
    """Counted are the products asked for: 4 output rows of 4 windows, 9 taps, 12 channels, and no zeros."""
    rng = np.random.default_rng(2)
    model = chain((1, 12, 6, 6), node("Conv", normal(rng, 12, 1, 3, 3, fan_in=9), group=12))
    checked = check(model, MACHINES["isaac"], frames=1)
    assert checked.run.array_macs == 16 * 9 * 12


@pytest.mark.parametrize("form", FORMS)
def test_level_two_is_qlinear_conv(form: str) -> None:
    """Level 2's grouped convolution is onnxruntime's integer operator, code for code."""
    checked = check(grouped(form), MACHINES["isaac"])
    module, store = checked.compiled.modules["quantised"], checked.compiled.store
    (op,) = [o for o in module.walk() if isinstance(o, ConvOp) and o.group.value.data > 1]
    # The names of the tensors around it: a Relu behind it is fused, so that its result is called as the Relu's.
    before, after = "t0", tensor_names(op)[0]
    x = {"x": np.random.default_rng(4).normal(size=(1, 5, 7, 6)).astype(np.float32)}
    run = execute_quantised(module, store, x, taps=(before, after))
    assert product_error(op, run.taps[before], run.taps[after], store) == (0.0, "onnxruntime")


@pytest.mark.parametrize(("adcs", "block"), [(128, (24, 24, 24)), (32, (12, 12, 12))])
def test_blocks_lie_on_two_arrays_where_columns_have_converters(
    adcs: int, block: tuple[int, int, int]
) -> None:
    """Converters that columns share would take twice as long for twice the columns: blocks stay on one array."""
    arch = MACHINES["isaac"].model_copy(
        update={"crossbar": MACHINES["isaac"].crossbar.model_copy(update={"adcs": adcs})}
    )
    checked = check(grouped("depthwise"), arch, mapping=MappingOptions(copies=1), frames=1)
    (read,) = [s.read for s in checked.stages if s.read is not None and s.read.block is not None]
    assert read.block is not None
    assert read.block.data == block
