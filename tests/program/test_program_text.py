"""The text form: reading it back is the identity, and a person can read it."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cimc.diagnostics import UsageError
from cimc.runtime.program import rows as asm
from cimc.runtime.program.assembler import assemble
from cimc.runtime.program.builder import ProgramBuilder, Route
from cimc.runtime.program.geometry import ring_geometry
from cimc.runtime.program.opcodes import AluFunction, Element
from cimc.runtime.program.tables import SCHEMAS, HostOperator, IoTensor, Program, parameter
from cimc.runtime.program.text import disassemble


def assert_same(a: Program, b: Program) -> None:
    assert list(a.tables) == list(b.tables)
    for table, schema in SCHEMAS.items():
        for name in schema:
            assert a[table][name].dtype == b[table][name].dtype
            assert a[table][name].tobytes() == b[table][name].tobytes(), f"{table}.{name}"
    assert (a.names, a.io, a.hosts, a.weights, a.taps) == (b.names, b.io, b.hosts, b.weights, b.taps)
    assert (dict(a.machine), a.frames, a.total_macs) == (dict(b.machine), b.frames, b.total_macs)


def random_tables(rng: np.random.Generator, wild: bool) -> dict[str, dict[str, npt.NDArray[Any]]]:
    """Small numbers, so that references often hit; ``wild``: the whole range of each type."""
    tables: dict[str, dict[str, npt.NDArray[Any]]] = {}
    for table, schema in SCHEMAS.items():
        rows = int(rng.integers(0, 30))
        tables[table] = {}
        for name, spec in schema.items():
            dtype, _, width = spec.partition(":")
            shape = (rows, int(width)) if width else (rows,)
            if dtype == "float32":
                bits = rng.integers(0, 2**32, shape, dtype=np.uint32)
                tables[table][name] = bits.view(np.float32)
                continue
            limits = np.iinfo(np.dtype(dtype))
            low, high = (limits.min, limits.max) if wild else (max(-5, limits.min), 20)
            values = rng.integers(low, high, shape, dtype=dtype, endpoint=True)
            tables[table][name] = values * rng.integers(0, 2, shape, dtype=dtype)
    return tables


names = st.lists(st.text(max_size=8), max_size=20).map(tuple)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), wild=st.booleans(), given_names=names)
def test_reading_back_is_the_identity(seed: int, wild: bool, given_names: tuple[str, ...]) -> None:
    """Any tables of the schema's types, meaningful or not, come back bit for bit."""
    tensor = IoTensor("x\n#", "in", 6, (3,), 4, 5, 3, 5, 1, 20, 1 / 3, 3)
    host = HostOperator("A", "a.onnx", (0,), (1,), ("a",), ("b",), ((1, 3),), ((1, 4),), 24)
    tables = random_tables(np.random.default_rng(seed), wild)
    program = Program(
        tables, given_names, (tensor,), (host, host), given_names, {"a": [1, {"b": None}]}, 3, 7, (tensor,)
    )
    assert_same(program, assemble(disassemble(program)))


def convolution() -> Program:
    """A 3x3 convolution's context as ``docs/isa.md`` shows it, with its rings."""
    b = ProgramBuilder()
    node = b.name("layer1.conv1")
    window = b.add_window(kh=3, row_step=1, kw=3, col_step=8, c=8)
    body = b.add_body(
        "layer1.conv1",
        [
            asm.loop_images(),
            asm.recv(parameter(0), 2, node=node),
            asm.loop(parameter(1)),
            asm.recv(parameter(0), 1, node=node),
            asm.loop(6),
            asm.read_xb(
                asm.At(1, 0, 0, b.add_stride((), (0, 0, 16))),
                asm.At(parameter(0), 0, 0, b.add_stride((), (0, 0, 8))),
                parameter(2),
                window,
                16,
                0,
                2,
                node=node,
            ),
            asm.end(),
            asm.free(parameter(0), 1, node=node),
            asm.alu(
                AluFunction.REQUANTISE,
                asm.At(2),
                asm.At(1),
                n=16,
                m=6,
                record=b.add_record([0, 0, 255, 1, 5], [0.1]),
                node=node,
            ),
            asm.send(asm.At(2), 0, n=16, m=6, row=parameter(3), row_st=b.add_stride((0, 2)), node=node),
            asm.end(),
            asm.free(parameter(0), 2, node=node),
            asm.end(),
            asm.halt(),
        ],
    )
    b.add_context(0, body, (0, 3, 0, 1), node=node)
    geometry = ring_geometry(3, 1, 1, 1, 6, 6, 1, 2)
    b.add_ring(0, Element.U8, 4, 64, geometry, channels=8, fill=48, context=0)
    b.add_buffer(0, Element.I32, 1, 96, context=0)
    b.add_buffer(0, Element.U8, 1, 96, context=0)
    b.add_route_set([Route(0, 0, 0, 0, 6, 8, 1, 0)])
    return b.build({"chip": {"cores": 1}})


def test_a_convolution_is_readable() -> None:
    """Loops are indented, parameters are p0 .., counters i0 .., nodes go by their name."""
    code = disassemble(convolution(), body="layer1.conv1", contexts=False)
    assert code.splitlines() == [
        "# body 0: layer1.conv1",
        "     0: loop images",
        '     1:   recv p0, n=2  @"layer1.conv1"',
        "     2:   loop p1",
        '     3:     recv p0, n=1  @"layer1.conv1"',
        "     4:     loop 6",
        "     5:       read_xb buf1[0, 0 + 16*i2], p0[0, 0 + 8*i2], xb=p2, window=0, n=16, count=2"
        '  @"layer1.conv1"',
        "     6:     end",
        '     7:     free p0, n=1  @"layer1.conv1"',
        '     8:     alu requantise buf2, buf1, n=16, m=6, record=0  @"layer1.conv1"',
        '     9:     send buf2, n=16, m=6, row=[p3 + 2*i1], routes=0  @"layer1.conv1"',
        "    10:   end",
        '    11:   free p0, n=2  @"layer1.conv1"',
        "    12: end",
        "    13: halt",
    ]


def test_contexts_show_their_parameters() -> None:
    """With contexts the parameters' values follow; the whole program round-trips."""
    program = convolution()
    text = disassemble(program, body="layer1.conv1")
    assert "context 0 param_count=4  # layer1.conv1 p0=0 p1=3 p2=0 p3=1" in text
    assert "ring" in disassemble(program)
    assert_same(program, assemble(disassemble(program)))


def test_an_unknown_body_is_named() -> None:
    """The message lists what there is."""
    with pytest.raises(UsageError, match=r"no body 'conv9'; there are 'layer1\.conv1'"):
        disassemble(convolution(), body="conv9")


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("program 1.3", "program 2.0", r"line 1: program format 2\.0 is newer"),
        ("program 1.3\n", "", "the first line 'program <major>.<minor>' is missing"),
        ("loop images", "lop images", r"row 0: unknown instruction 'lop'"),
        ("xb=p2", "xbar=p2", "unknown field 'xbar'"),
        ("16*i2]", "16*i9]", "is no increment"),
        ("16*i2]", "17*i2]", "no stride has"),
        ("alu requantise buf2, buf1", "alu requantise buf2, buf1, buf1, buf1", "4 operands, not 3"),
        ("alu requantise", "alu requantize", "requantize"),
        ('@"layer1.conv1"', '@"layer9"', "no name"),
        ("     9: send", "     8: send", "row 8"),
        ("kind=ring", "kindd=ring", "has no column 'kindd'"),
        ("buffer 1 ", "buffer 2 ", "buffer 2 stands where buffer 1 belongs"),
        ("frames 1", "frame 1", "unknown word 'frame'"),
        ("slots=4", "slots=99999999999", "outside int32"),
        ("machine {", "machine [{", "line 4"),
        ("row=0,2,0,0,0,0", "row=0,2,0,0,0", "6 values a row, not 5"),
    ],
)
def test_bad_text_is_named_with_its_line(old: str, new: str, wanted: str) -> None:
    """One clear message with the line or the row."""
    text = disassemble(convolution())
    if "9: send" in old:
        old, new = "     9:     send", "     8:     send"
    assert old in text
    with pytest.raises(UsageError, match=wanted) as caught:
        assemble(text.replace(old, new), "net.txt")
    assert str(caught.value).startswith("net.txt: ")
