"""What a mapping needs: closed-form tile counts, machines that are too small, what a program's size grows with."""

# ruff: noqa: E501 (operations of the IR are one line each)

from __future__ import annotations

import warnings
from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from xdsl.dialects.builtin import ModuleOp

from cimc.backends.schema import Architecture
from cimc.compiler import Compiled, CompileOptions, build
from cimc.diagnostics import CimError, DoesNotFitError
from cimc.dialects.cim import StageOp
from cimc.dialects.context import CimContext
from cimc.dialects.graph_types import shape_of
from cimc.dialects.weights import WeightRefAttr
from cimc.mapping_options import MappingOptions
from cimc.passes.place.build_network import build_network
from cimc.passes.place.place_contexts import SLOTS
from cimc.runtime.program import BufferKind, Element
from cimc.runtime.verifier import verify_program
from tests.mapping.small_machine import small_machine

Layer = tuple[int, int, int, int, int]
"""Input channels, output channels, kernel, output height and width of a convolution."""


def _squeezenet() -> list[Layer]:
    """SqueezeNet 1.1 at 224: a 3x3/2 convolution without padding (111x111), fire modules, a 1x1 classifier."""
    layers = [(3, 64, 3, 111, 111)]
    fires = [(64, 16, 64, 55), (128, 16, 64, 55), (128, 32, 128, 27), (256, 32, 128, 27)]
    fires += [(256, 48, 192, 13), (384, 48, 192, 13), (384, 64, 256, 13), (512, 64, 256, 13)]
    for given, squeezed, expanded, side in fires:
        layers.append((given, squeezed, 1, side, side))
        layers += [(squeezed, expanded, kernel, side, side) for kernel in (1, 3)]
    return [*layers, (512, 1000, 1, 13, 13)]


def _resnet18() -> list[Layer]:
    """ResNet-18 at 224: 20 convolutions and the classifier."""
    layers = [(3, 64, 7, 112, 112)]
    given = 64
    for width, side in ((64, 56), (128, 28), (256, 14), (512, 7)):
        layers += [(given, width, 3, side, side), *[(width, width, 3, side, side)] * 3]
        if given != width:
            layers.append((given, width, 1, side, side))
        given = width
    return [*layers, (512, 1000, 1, 1, 1)]


def _mapped_stages(layers: Sequence[Layer], arch: Architecture) -> list[StageOp]:
    """Every layer as a level-2 product of its own, taken through map-stages."""
    from xdsl.parser import Parser

    from cimc.passes.schedule.map_stages import MapStagesPass

    stages: list[StageOp] = []
    for given, filters, kernel, height, width in layers:
        rows, columns = height + kernel - 1, width + kernel - 1
        x = f"tensor<1x{given}x{rows}x{columns}x!graph.quant<u8, 0.1, 0>>"
        y = f"tensor<1x{filters}x{height}x{width}xf32>"
        text = f"""
        func.func @main(%f: tensor<1x{given}x{rows}x{columns}xf32>) -> {y} attributes {{graph.inputs = ["x"], graph.outputs = ["y"]}} {{
          %x = graph.quantize %f tensors ["x"] : (tensor<1x{given}x{rows}x{columns}xf32>) -> {x}
          %y = graph.conv %x weight <"w"> kernel <{kernel}, {kernel}> strides <1, 1> pads <0, 0, 0, 0> dilations <1, 1> group 1 weight_bits 8 weight_scale <"s"> acc_bits 32 tensors ["y"] : ({x}) -> {y}
          func.return %y : {y}
        }}
        """
        context = CimContext(arch=arch)
        context.store.put("w", np.ones((filters, given, kernel, kernel), np.int8))
        context.store.put("s", np.ones(1, np.float32))
        module = Parser(context, f"builtin.module {{ {text} }}").parse_module()
        MapStagesPass().apply(context, module)
        stages += [op for op in module.walk() if isinstance(op, StageOp)]
    return stages


@pytest.mark.parametrize(("layers", "total"), [(_squeezenet(), 50_962), (_resnet18(), 132_500)])
def test_closed_form_row_tiles(layers: list[Layer], total: int) -> None:
    """Row tiles times windows, summed over the layers, is the published closed form at 128 rows."""
    found = 0
    for stage in _mapped_stages(layers, small_machine(rows=128, columns=128)):
        assert stage.write is not None
        rows, columns, _ = shape_of(stage.result)
        found += stage.write.grid.data[0] * rows * columns
    assert found == total


def _network(side: int, channels: int = 6) -> ModelProto:
    """Two convolutions and a residual Add over ``side`` x ``side`` images."""
    rng = np.random.default_rng(1)
    shapes = {"w0": (channels, 2, 3, 3), "w1": (channels, channels, 3, 3)}
    weights = [
        numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), key)
        for key, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], "conv0", kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Conv", ["a", "w1"], ["b"], "conv1", kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Add", ["a", "b"], ["y"], "add"),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, side, side])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, channels, side, side])
    graph = helper.make_graph(nodes, "net", [given], [made], weights)
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])


def _compile(model: ModelProto, arch: Architecture, copies: int = 1) -> Compiled:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ranges from random numbers serve here
        return build(model, arch, None, CompileOptions(mapping=MappingOptions(copies=copies)))


def _operations(module: ModuleOp) -> int:
    return sum(1 for _ in module.walk())


def test_size_grows_with_layers_only() -> None:
    """Operations at every level, and rows of instructions, are the same for other image sizes and cores and no more for
    more copies (without rows in common there is nothing to hold between turns); contexts grow with copies, and not with
    the image: shorter rows of an input are more at a time."""
    machines = [small_machine(cores=cores, crossbars=16, rows=64, columns=64) for cores in (16, 64)]
    made = [
        _compile(_network(side), arch, copies)
        for side, copies, arch in (
            (8, 1, machines[0]),
            (16, 1, machines[0]),
            (16, 5, machines[0]),
            (16, 5, machines[1]),
        )
    ]
    sizes: list[Any] = []
    for compiled in made:
        assert compiled.linked is not None
        counts = [_operations(module) for module in compiled.modules.values()]
        sizes.append((compiled.linked.program.count("instructions"), *counts))
    assert sizes[0] == sizes[1], "another image size"
    assert sizes[2] == sizes[3], "more cores"
    assert all(many <= one for many, one in zip(sizes[2], sizes[1], strict=True)), "more copies"
    contexts = [c.linked.program.count("contexts") for c in made if c.linked is not None]
    assert contexts[1] <= contexts[0] < contexts[2] == contexts[3]


def test_too_few_crossbars() -> None:
    """The message has need and supply; without run-time writes it is an error, with them there are phases."""
    model = _network(8)
    with pytest.raises(DoesNotFitError, match=r"needs 12 crossbars .* small has 8 crossbars \(2 cores x 4\)"):
        _compile(model, small_machine(cores=2))
    linked = _compile(model, small_machine(cores=2, allow_writes=True)).linked
    assert linked is not None
    assert int(linked.program["contexts"]["phase"].max()) == 1


def test_too_small_local_buffer() -> None:
    """Every stage that no core can hold is named, with the bytes it needs and the bytes there are."""
    arch = small_machine(cores=64, local_buffer_bytes=100)
    with pytest.raises(CimError) as caught:
        _compile(_network(8), arch)
    assert caught.value.exit_code == DoesNotFitError.exit_code
    text = str(caught.value)
    for name in ("conv0", "conv1"):
        assert f"{name} (" in text
    assert "needs" in text
    assert "bytes of local memory, a core has 100 (core.local_buffer_bytes)" in text


@pytest.mark.parametrize("local_buffer_bytes", [1200, 2000, 131072])
@pytest.mark.parametrize("copies", [1, 3])
def test_memory_is_never_exceeded(local_buffer_bytes: int, copies: int) -> None:
    """A core's buffers end inside its memory, however small it is; what is left deepens rings."""
    arch = small_machine(cores=200, rows=64, columns=64, local_buffer_bytes=local_buffer_bytes)
    compiled = _compile(_network(8), arch, copies)
    assert compiled.linked is not None
    program = compiled.linked.program
    buffers = {name: column.tolist() for name, column in program["buffers"].items()}
    for core, base, slots, pitch, element in zip(
        *(buffers[name] for name in ("core", "base", "slots", "pitch", "element")), strict=True
    ):
        assert core < 0 or base + slots * pitch * Element(element).size_bytes <= local_buffer_bytes
    assert verify_program(program) == []


def test_rings_hold_window_and_growth() -> None:
    """A ring has at least its window; the ring of the residual's short path also holds the rows by which the long path
    is behind, and with room to spare every ring gets two advances more."""
    tight, roomy = (
        _compile(_network(8), small_machine(cores=200, rows=64, columns=64, local_buffer_bytes=size))
        for size in (800, 131072)
    )
    found: list[list[int]] = []
    for compiled in (tight, roomy):
        main = next(op for op in compiled.modules["mapped"].walk() if op.name == "func.func")
        slots_ref = main.attributes[SLOTS]
        assert isinstance(slots_ref, WeightRefAttr)
        slots = compiled.store.array(slots_ref.key.data).tolist()
        network = build_network(list(main.regions[0].block.ops), compiled.ctx)
        assert all(s >= ring.geometry.window for s, ring in zip(slots, network.rings, strict=True))
        found.append(slots)
        assert compiled.linked is not None
        kinds = compiled.linked.program["buffers"]["kind"]
        assert int((kinds == BufferKind.RING).sum()) == len(slots)
    assert all(a <= b for a, b in zip(*found, strict=True))
    assert sum(found[0]) < sum(found[1])


def test_too_small_global_buffer() -> None:
    """Chip-level rows are counted too: a buffer that just holds them serves, without deeper rings; less is refused."""
    with pytest.raises(
        DoesNotFitError, match=r"need (\d+) bytes of the global buffer, small has 64 "
    ) as caught:
        _compile(_network(8), small_machine(cores=64, global_buffer_bytes=64))
    need = int(str(caught.value).split(" bytes of")[0].split()[-1])
    compiled = _compile(_network(8), small_machine(cores=64, global_buffer_bytes=need))
    assert compiled.linked is not None
    assert verify_program(compiled.linked.program) == []


def test_tiles_fit_a_core() -> None:
    """Row tiles of a context are at most a core's crossbars, and all of the matrix is held once per copy.

    18 rows in groups of 8 are 3 steps: on 3 crossbars where a core has as many, else packed on 2. 54 are 7 groups.
    """
    for crossbars in (1, 2, 3, 4):
        compiled = _compile(_network(8), small_machine(cores=64, crossbars=crossbars, contexts=8), 2)
        assert compiled.linked is not None
        program = compiled.linked.program
        sets, tiles = program["array_sets"], program["tiles"]
        assert int(sets["tile_count"].max()) <= crossbars
        cells = (tiles["k1"] - tiles["k0"]) * (tiles["n1"] - tiles["n0"])
        assert int(cells.sum()) == 2 * (18 * 6 + 54 * 6)
        row_tiles = (3 if crossbars >= 3 else ceil(18 / 16)) + ceil(54 / 16)
        assert program.count("tiles") == 2 * row_tiles * ceil(6 / 4)
