"""One example of the property: network, machine and mapping, compiled, checked, compared with the definition."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import printer
from xdsl.dialects.builtin import IntegerAttr
from xdsl.ir import SSAValue

from cimc.backends.schema import Architecture
from cimc.compiler import BATCH, Compiled, CompileOptions, build
from cimc.dialects.cim import ConcatOp, DcomOp, StageOp
from cimc.dialects.cim_types import Function
from cimc.dialects.context import CimContext
from cimc.dialects.graph import HostOp, MatmulOp, NormOp, ProductOperation, UnaryOp, main_function
from cimc.dialects.graph_types import quant_of, shape_of
from cimc.driver import parse_module, print_module
from cimc.interpreters.mapped import execute_mapped
from cimc.interpreters.quantised import execute_quantised
from cimc.mapping_options import MappingOptions
from cimc.passes.place.network import COLUMNS
from cimc.passes.place.pieces import splits
from cimc.passes.schedule.array_product import coding_of
from cimc.runtime.functional import FunctionalResult, run_program
from cimc.runtime.program import Program
from cimc.runtime.verifier import verify_program
from tests.property.choices import Choices
from tests.property.machines import random_machine, random_mapping
from tests.property.networks import Network, random_network
from tests.property.reference import Steps, run_reference

WANTED = (
    "two row tiles in different cores",
    "two column tiles",
    "producer and consumer with different copies",
    "residual",
    "Concat",
    "stride 2 with padding",
    "overlapping pool",
    "zero point not 0",
    "4-bit operands",
    "lossy converter",
    "batch 3",
    "groups",
    "dilation",
    "ConvTranspose",
    "16-bit operands",
    "two phases",
    "operator larger than the chip",
    "mode core",
    "mode crossbar",
    "mode wordline",
    "weight zero points",
    "LayerNorm, Gelu or product of activations",
    "rows in pieces with a ring for each",
    "rows in pieces from one ring",
)
"""What the examples must cover; each in at least a tenth of them."""


@dataclass(frozen=True)
class Example:
    """What is compiled, and the numbers it runs on."""

    network: Network
    arch: Architecture
    mapping: MappingOptions
    seed: int

    def describe(self) -> str:
        """All of it as text, for the report of a failure; weights are shortened."""
        shown = printer.to_text(self.network.model)
        lines = [line if len(line) < 200 else f"{line[:200]} ..." for line in shown.splitlines()]
        return "\n".join(
            [*lines, str(self.mapping), str(self.arch.chip), str(self.arch.core), str(self.arch.crossbar)]
        )

    def compile(self) -> Compiled:
        """Raises ``DoesNotFitError`` when the machine is too small."""
        data = {self.network.input_name: self.network.samples(2, self.seed)}
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # a bias that saturates at 2 bits is reported, and no concern here
            return build(
                self.network.model, self.arch, None, CompileOptions(mapping=self.mapping, calibration=data)
            )


def random_example(choices: Choices) -> Example:
    """A network, a machine and options for its nodes."""
    network = random_network(choices)
    return Example(
        network,
        random_machine(choices),
        random_mapping(choices, network.products, network.floating),
        choices.number(0, 2**31 - 1),
    )


def check_example(example: Example, *, walk: bool = False) -> list[str]:
    """Compile, verify, run, compare; what of :data:`WANTED` the compiled program has.

    ``walk``: also run the definition, one window and digit at a time, compile a second time, and read the text
    of every level back.
    """
    compiled = example.compile()
    assert compiled.linked is not None
    program = compiled.linked.program
    weights = {key: compiled.store.array(key) for key in program.weights}
    findings = verify_program(program, weights=weights)
    assert not findings, "\n".join(map(str, findings))
    inputs = {example.network.input_name: example.network.samples(1, example.seed + 1)}
    run = run_program(program, weights, inputs, hosts=_loader(compiled))
    assert run.array_macs == program.total_macs * run.frames, "not all products were read from arrays"
    _compare(compiled, example.arch, inputs, run)
    if walk:
        slow = run_program(program, weights, inputs, hosts=_loader(compiled), walk=True)
        for name, array in run.outputs.items():
            np.testing.assert_array_equal(slow.outputs[name], array, err_msg=f"walk, output {name}")
        again = example.compile()
        assert again.linked is not None
        _same_tables(program, again.linked.program)
        for level, module in compiled.modules.items():
            text = print_module(module)
            assert print_module(parse_module(text, CimContext(), level)) == text, level
    return list(_seen(compiled, example))


def _loader(compiled: Compiled) -> Callable[[str], bytes]:
    assert compiled.linked is not None
    keys = {f"{i:03d}.onnx": key for i, key in enumerate(compiled.linked.host_models)}

    def load(name: str) -> bytes:
        return compiled.store.array(keys[name]).tobytes()

    return load


def _compare(
    compiled: Compiled, arch: Architecture, inputs: Mapping[str, npt.NDArray[Any]], run: FunctionalResult
) -> None:
    """Every output integer equals the mapped level and the definition; and level 2, when no converter can lose.

    An output leaves as codes unless the model also uses its real values; then it leaves as those.
    """
    assert compiled.linked is not None
    module, steps = compiled.modules["quantised"], dict(_steps(compiled))
    as_codes = {io.name: io.scale is not None for io in compiled.linked.program.io}
    mapped = execute_mapped(compiled.modules["mapped"], compiled.store, inputs, arch=arch)
    assert set(mapped.integer_outputs) == {name for name in run.outputs if as_codes[name]}
    for name, real in mapped.outputs.items():
        _same(run.outputs[name], mapped.integer_outputs.get(name, real), f"output {name}, mapped level")
    for frame in range(run.frames):
        one = {name: array[frame : frame + 1] for name, array in inputs.items()}
        wanted = run_reference(module, compiled.store, arch, steps, one)
        for name, (real, codes) in wanted.items():
            _same(
                run.outputs[name][frame], (codes if as_codes[name] else real)[0], f"output {name}, definition"
            )
        if steps:
            continue
        level2 = execute_quantised(module, compiled.store, one)
        for name, real in level2.outputs.items():
            expected = level2.integer_outputs[name] if as_codes[name] else real
            _same(run.outputs[name][frame], expected[0], f"output {name}, level 2")


def _same(got: npt.NDArray[Any], wanted: npt.NDArray[Any], what: str) -> None:
    assert got.dtype == wanted.dtype, what
    np.testing.assert_array_equal(got, wanted, err_msg=what)


def _same_tables(one: Program, two: Program) -> None:
    """Equal tables and headers: the files of two compiles are the same bytes."""
    assert (one.names, one.io, one.taps, one.hosts, one.weights) == (
        two.names, two.io, two.taps, two.hosts, two.weights,
    )  # fmt: skip
    for table, columns in one.tables.items():
        for column, array in columns.items():
            np.testing.assert_array_equal(two[table][column], array, err_msg=f"{table}.{column}")


def _stages(compiled: Compiled) -> list[StageOp]:
    return [op for op in compiled.modules["mapped"].walk() if isinstance(op, StageOp)]


def _steps(compiled: Compiled) -> Iterator[tuple[tuple[str, int], Steps]]:
    """By node name and number among the products that the node became: labels are ``name``, ``name.1``, ..."""
    seen: Counter[str] = Counter()
    for stage in _stages(compiled):
        if stage.read is None or stage.write is None:
            continue
        name = stage.label.data.split(".")[0]
        if stage.read.steps is not None:
            h = compiled.store.array(stage.read.steps.key.data)
            yield (name, seen[name]), Steps(h, coding_of(stage.write.coding).frac_bits)
        seen[name] += 1


def _producers(value: SSAValue) -> Iterator[StageOp]:
    """The stages whose rows a value is made of."""
    owner = value.owner
    if isinstance(owner, StageOp):
        yield owner
    if isinstance(owner, ConcatOp):
        for part in owner.args:
            yield from _producers(part)


def _apart(stage: StageOp, compiled: Compiled) -> bool:
    """Whether row tiles of one copy and column block lie in different cores."""
    assert stage.placement is not None
    cores: dict[tuple[int, int], set[int]] = {}
    for row in compiled.store.array(stage.placement.key.data).tolist():
        entry = dict(zip(COLUMNS, row, strict=True))
        cores.setdefault((entry["copy"], entry["n0"]), set()).add(entry["core"])
    return any(len(found) > 1 for found in cores.values())


def _cut(stage: StageOp, compiled: Compiled) -> bool:
    """Whether the contexts of a stage's one copy are in several phases."""
    assert stage.placement is not None
    phases = compiled.store.array(stage.placement.key.data)[:, COLUMNS.index("phase")]
    return len(set(phases.tolist())) > 1


def _wide(stage: StageOp) -> bool:
    """Whether a stage's rows have several positions."""
    return shape_of(stage.result)[1] > 1


def _seen(compiled: Compiled, example: Example) -> Iterator[str]:
    """Which of :data:`WANTED` the compiled program has."""
    stages = _stages(compiled)
    arrays = [(s, s.read, s.write) for s in stages if s.read is not None and s.write is not None]
    dcoms = [op for s in stages for op in s.body.block.ops if isinstance(op, DcomOp)]
    pools = [op.window for op in dcoms if op.function.data in (Function.MAX_POOL, Function.AVERAGE_POOL)]
    codings = [coding_of(write.coding) for _, _, write in arrays]
    given = [quant_of(read.source) for _, read, _ in arrays]
    windows = [read.window for _, read, _ in arrays]
    batch = main_function(compiled.modules["mapped"]).attributes[BATCH]
    assert isinstance(batch, IntegerAttr)
    assert compiled.linked is not None
    level2 = list(compiled.modules["quantised"].walk())
    hosts = {op.op_type.data for op in level2 if isinstance(op, HostOp)}
    nodes = example.network.model.graph.node
    facts = (
        any(_apart(stage, compiled) for stage, _, _ in arrays),
        any(write.grid.data[1] > 1 for _, _, write in arrays),
        any(p.copies != s.copies for s, _, _ in arrays for v in s.sources for p in _producers(v) if p.read),
        any(op.function.data is Function.ADD and op.args[0] is not op.args[1] for op in dcoms),
        any(isinstance(op, ConcatOp) for op in compiled.modules["mapped"].walk()),
        any(2 in w.strides and any(w.pads) for w in windows),
        any(w is not None and w.kernel[0] > w.strides[0] for w in pools),
        any(q is not None and q.zero_point != 0 for q in given),
        any((c.weight_bits, c.input_bits) == (4, 4) for c in codings),
        any(read.steps is not None for _, read, _ in arrays),
        batch.value.data == 3,
        any(read.block is not None for _, read, _ in arrays),
        any(max(w.dilations) > 1 for w in windows),
        any(n.op_type == "ConvTranspose" for n in nodes) and "ConvTranspose" not in hosts,
        any(16 in (c.weight_bits, c.input_bits) for c in codings),
        bool(compiled.linked.program["contexts"]["phase"].any()),
        any(_cut(stage, compiled) for stage, _, _ in arrays),
        *(example.arch.mode == mode for mode in ("core", "crossbar", "wordline")),
        any(p.weight_zero is not None for p in level2 if isinstance(p, ProductOperation)),
        any(
            isinstance(op, NormOp | MatmulOp) or (isinstance(op, UnaryOp) and op.function.data == "erf")
            for op in level2
        ),
        any(splits(s, 0, example.arch) for s in stages if _wide(s)),
        any(s.pieces.value.data > 1 and not splits(s, 0, example.arch) for s in stages if _wide(s)),
    )
    yield from (name for name, holds in zip(WANTED, facts, strict=True) if holds)
