"""One-operator models of every kind of convolution, and the chain of equalities each must pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from cimc.backends.schema import Architecture
from cimc.compiler import Compiled, CompileOptions, build
from cimc.dialects.cim import StageOp
from cimc.dialects.graph import HostOp
from cimc.interpreters.graph import run_graph
from cimc.interpreters.mapped import execute_mapped
from cimc.interpreters.quantised import execute_quantised
from cimc.mapping_options import MappingOptions
from cimc.passes.place.network import COLUMNS
from cimc.runtime.functional import FunctionalResult, run_program
from cimc.runtime.verifier import verify_program
from tests.fewer_cores import with_fewer_cores

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Node:
    """One node of a chain: operator, constant inputs behind the running value, attributes."""

    op_type: str
    constants: tuple[Array, ...] = ()
    attributes: tuple[tuple[str, Any], ...] = ()


def node(op_type: str, *constants: Array, **attributes: Any) -> Node:
    """A node of a chain."""
    return Node(op_type, constants, tuple(attributes.items()))


def chain(shape: Sequence[int], *nodes: Node) -> onnx.ModelProto:
    """``x`` through ``nodes`` to ``y``; ``shape`` has the batch."""
    made: list[onnx.NodeProto] = []
    stored: list[TensorProto] = []
    value = "x"
    for index, one in enumerate(nodes):
        names = [f"c{index}_{i}" for i in range(len(one.constants))]
        stored += [numpy_helper.from_array(a, n) for a, n in zip(one.constants, names, strict=True)]
        output = "y" if index == len(nodes) - 1 else f"t{index}"
        made.append(
            helper.make_node(one.op_type, [value, *names], [output], f"n{index}", **dict(one.attributes))
        )
        value = output
    graph = helper.make_graph(
        made,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def normal(rng: np.random.Generator, *shape: int, fan_in: int = 1) -> npt.NDArray[np.float32]:
    """Normal numbers that keep the spread of ``fan_in`` inputs."""
    return (rng.normal(size=shape) / np.sqrt(fan_in)).astype(np.float32)


def machine(base: str = "isaac", *, crossbars: int = 3, **crossbar: Any) -> Architecture:
    """``base`` with odd arrays, few of them a core."""
    arch = with_fewer_cores(base)
    return arch.model_copy(
        update={
            "crossbar": arch.crossbar.model_copy(update=crossbar),
            "core": arch.core.model_copy(update={"crossbars": crossbars, "contexts": 5}),
        }
    )


MACHINES: dict[str, Architecture] = {
    "isaac": with_fewer_cores("isaac"),
    "puma": with_fewer_cores("puma"),
    "odd": machine(rows=21, columns=45, parallel_rows=5, adcs=45),
    "odd flip": machine("puma", rows=37, columns=52, parallel_rows=37, adcs=52),
    "lossy": machine("puma", rows=41, columns=52, parallel_rows=41, adc_bits=4, adcs=52),
}
EXACT = ("isaac", "puma", "odd", "odd flip")


@dataclass(frozen=True)
class Checked:
    """A model that passed the chain."""

    compiled: Compiled
    run: FunctionalResult

    @property
    def hosts(self) -> list[str]:
        """Operators left to the host."""
        graph = self.compiled.modules["graph"]
        return [op.op_type.data for op in graph.walk() if isinstance(op, HostOp)]

    @property
    def stages(self) -> list[StageOp]:
        """The stages with arrays."""
        walk = self.compiled.modules["mapped"].walk()
        return [op for op in walk if isinstance(op, StageOp) and op.read is not None]

    @property
    def crossbars(self) -> int:
        """Crossbars of all stages."""
        store = self.compiled.store
        keys = [s.placement.key.data for s in self.stages if s.placement is not None]
        return sum(int(store.array(key)[:, COLUMNS.index("xbars")].sum()) for key in keys)


def check(
    model: onnx.ModelProto,
    arch: Architecture,
    *,
    frames: int = 2,
    mapping: MappingOptions | None = None,
    seed: int = 0,
    within: float = 0.1,
    walk: bool = False,
) -> Checked:
    """Compile ``model`` and compare every level.

    Level 1 equals onnxruntime to rounding; level 2 is within ``within`` of it (8 bits or more); the mapped level
    and the stream are equal; level 2 equals them where no converter loses; every product is read from arrays.
    """
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(seed).normal(size=(frames, *shape[1:])).astype(np.float32)
    options = CompileOptions(mapping=mapping or MappingOptions(), calibration={"x": x})
    compiled = build(model, arch, None, options)
    store = compiled.store
    real = _onnxruntime(model, x)
    level_1 = np.concatenate(
        [run_graph(compiled.modules["graph"], store, {"x": x[i : i + 1]})["y"] for i in range(frames)]
    )
    assert np.abs(level_1 - real).max() <= 2e-5 * np.abs(real).max()
    level_2 = [
        execute_quantised(compiled.modules["quantised"], store, {"x": x[i : i + 1]}) for i in range(frames)
    ]
    close = np.concatenate([run.outputs["y"] for run in level_2])
    assert np.linalg.norm(close - real) <= within * np.linalg.norm(real)
    assert compiled.linked is not None
    program = compiled.linked.program
    weights = {key: store.array(key) for key in program.weights}
    findings = verify_program(program, weights=weights)
    assert not findings, "\n".join(map(str, findings))
    models = compiled.linked.host_models
    run = run_program(
        program,
        weights,
        {"x": x},
        hosts=lambda name: store.array(models[int(name.split(".")[0])]).tobytes(),
        walk=walk,
    )
    mapped = execute_mapped(compiled.modules["mapped"], store, {"x": x}, arch=arch)
    delivered = {**mapped.outputs, **mapped.integer_outputs}
    np.testing.assert_array_equal(run.outputs["y"], delivered["y"])
    if all(mapped.lossless.values()):
        exact = [{**r.outputs, **r.integer_outputs}["y"] for r in level_2]
        np.testing.assert_array_equal(run.outputs["y"], np.concatenate(exact))
        assert len(np.unique(run.outputs["y"])) > 4, "an output that hardly varies proves nothing"
    assert run.array_macs == program.total_macs * frames
    return Checked(compiled, run)


def _onnxruntime(model: onnx.ModelProto, x: Array) -> Array:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([np.asarray(session.run(None, {"x": frame[None]})[0]) for frame in x])
