"""The machines of the tree are what their sources say, and an architecture has one hash."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cimc.backends.loader import json_schema, load_architecture, resolved_yaml
from cimc.backends.schema import Architecture, Crossbar
from cimc.configuration.located import parse_located
from cimc.diagnostics import UsageError
from cimc.runtime.crossbar.coding import Coding

FOLDER = Path(__file__).parents[2] / "backends"
TEMPLATE = FOLDER / "template" / "my_chip" / "my_chip.yaml"
MACHINES = ("isaac", "isaac-ce", "jain", "jia", "pimcomp", "puma")
FILES = [*(FOLDER / f"{name}.yaml" for name in MACHINES), TEMPLATE]


def _parsed(text: str) -> Architecture:
    return parse_located(text, "chip.yaml", Architecture)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_number_says_where_it_comes_from(file: Path) -> None:
    """Each line with a number ends in one of the marks, and a found number names its source."""
    marks = re.compile(r"# (found: .+|derived: .+|recalled, unverified(: .+)?|ours(: .+)?)$")
    lines = [line for line in file.read_text().splitlines() if re.match(r"\s*\w+: -?[0-9.]+\b", line)]
    assert len(lines) > 30
    assert [line for line in lines if not marks.search(line)] == []


def test_isaac_is_the_reference_machine_of_the_closed_form() -> None:
    """CIM-MLC's Table 3: 12,288 crossbars, 16 row groups, one cycle a read, buses of 48 and 1024 bytes."""
    arch = load_architecture("isaac")
    assert arch.chip.cores * arch.core.crossbars == 12_288
    assert arch.crossbar.rows // arch.crossbar.parallel_rows == 16
    assert arch.cycles(arch.crossbar.read_latency_ns) == 1
    assert arch.crossbar.conversion_cycles == 0
    assert (arch.chip.global_buffer_bytes_per_cycle, arch.core.local_buffer_bytes_per_cycle) == (48, 1024)
    assert arch.mode == "wordline"
    assert arch.chip.allow_writes


def test_puma_takes_the_published_time_and_energy_of_a_product() -> None:
    """16 digits: 16 reads and one more round of conversions are 2304 ns; 8 slices take 43.97 nJ."""
    arch = load_architecture("puma")
    bar = arch.crossbar
    read = arch.cycles(bar.read_latency_ns)
    conversions = bar.columns // bar.adcs * bar.conversion_cycles
    assert conversions <= read  # hidden behind the next digit's read, all but the last round
    assert 16 * read + conversions == 2304
    per_digit = bar.read_energy_pj + bar.rows * bar.dac_energy_pj + bar.columns * bar.conversion_energy_pj
    assert 16 * 8 * per_digit / 1000 == pytest.approx(43.97, rel=1e-3)
    assert arch.chip.cores == 138 * 8
    assert not arch.chip.allow_writes


def _product_ns(arch: Architecture, digits: int) -> float:
    """Time of a product that uses every column: one read a digit and row group, one round of conversions behind."""
    bar = arch.crossbar
    convert = -(-bar.columns // bar.adcs) * bar.conversion_cycles
    groups = -(-bar.rows // bar.parallel_rows)
    return (digits * groups * max(arch.cycles(bar.read_latency_ns), convert) + convert) / arch.clock_ghz


def _product_pj(arch: Architecture, digits: int) -> float:
    """Energy of one array for a product that uses all rows at once and every column."""
    bar = arch.crossbar
    return digits * (
        bar.read_energy_pj + bar.rows * bar.dac_energy_pj + bar.columns * bar.conversion_energy_pj
    )


def test_isaac_ce_has_the_published_peak_throughput_power_and_area() -> None:
    """168 x 12 x 8 arrays x 128 x 16 products of 16 bit in 1.6 us: 20.6 TMAC/s, 479 GOPS/s/mm2 published."""
    arch = load_architecture("isaac-ce")
    bar = arch.crossbar
    assert arch.chip.cores == 168 * 12
    arrays = arch.chip.cores * arch.core.crossbars
    reads_ns = 16 * arch.cycles(bar.read_latency_ns) / arch.clock_ghz
    assert reads_ns == pytest.approx(1600)
    assert -(-bar.columns // bar.adcs) * bar.conversion_cycles == arch.cycles(bar.read_latency_ns)
    macs_per_second = arrays * bar.rows * (bar.columns // bar.cells_per_weight(16)) / (reads_ns * 1e-9)
    assert macs_per_second == pytest.approx(20.6e12, rel=5e-3)
    assert arch.chip.area_mm2 is not None
    assert 2 * macs_per_second / 1e9 / arch.chip.area_mm2 == pytest.approx(479, rel=1e-2)
    unit_mw = arch.core.crossbars * _product_pj(arch, 1) / bar.read_latency_ns
    assert unit_mw == pytest.approx(
        8 * 0.3 + 8 * 2 + 4
    )  # of 24.1 mW; the rest is registers and shift-and-add
    assert not arch.chip.allow_writes


def test_jia_has_the_published_throughput_and_efficiency() -> None:
    """16 arrays of 1152 x 256 bit cells: 3 TOPS and 30 TOPS/W at 8 bits."""
    arch = load_architecture("jia")
    bar = arch.crossbar
    assert (arch.mode, arch.chip.cores, arch.core.crossbars, arch.core.contexts) == ("core", 16, 1, 1)
    operations = 2 * bar.rows * (bar.columns // bar.cells_per_weight(8))
    reads_ns = 8 * arch.cycles(bar.read_latency_ns) / arch.clock_ghz
    assert 16 * operations / reads_ns / 1000 == pytest.approx(3.0, rel=0.02)
    assert operations / _product_pj(arch, 8) == pytest.approx(30.0, rel=1e-3)
    assert arch.chip.allow_writes


def test_pimcomp_takes_the_time_and_energy_of_its_simulators_formula() -> None:
    """One 8-bit product takes 1,305 ns and 24.49 nJ on 12 x 12 cores of 64 arrays."""
    arch = load_architecture("pimcomp")
    assert arch.chip.cores * arch.core.crossbars == 9_216
    assert _product_ns(arch, 8) == pytest.approx(1305)
    assert _product_pj(arch, 8) / 1000 == pytest.approx(24.49, rel=1e-4)
    assert not arch.chip.allow_writes
    assert not arch.crossbar.logical_cells


@pytest.mark.parametrize(
    ("name", "largest"),
    [("isaac", 24), ("isaac-ce", 192), ("puma", 192), ("pimcomp", 192), ("jain", 32), ("jia", 1152)],
)
def test_what_the_converters_lose_on_8_bit_weights(name: str, largest: int) -> None:
    """The largest sum of one row group fits the converter of every machine but jia: 1152 of 255."""
    bar = load_architecture(name).crossbar
    coding = Coding(
        weight_encoding=bar.weight_encoding,
        column_flip=bar.column_flip,
        cell_bits=bar.cell_bits,
        input_encoding=bar.input_encoding,
        dac_bits=bar.dac_bits,
        parallel_rows=bar.parallel_rows,
        subtract=bar.subtract,
        converter_hi=2**bar.adc_bits - 1,
    )
    assert coding.worst_range(bar.parallel_rows)[1] == largest
    assert coding.always_lossless(bar.rows) == (name != "jia")


@pytest.mark.parametrize("encoding", ["offset", "differential", "twos_complement"])
def test_cells_per_weight_is_what_the_crossbar_engine_stores(encoding: Any) -> None:
    """The count that legality uses equals the number of cells that the engine writes, for all widths."""
    for bits, cell_bits in product(range(2, 17), range(1, 9)):
        bar = load_architecture("isaac").crossbar.model_copy(
            update={"weight_encoding": encoding, "cell_bits": cell_bits}
        )
        coding = Coding(
            weight_bits=bits,
            weight_encoding=encoding,
            cell_bits=cell_bits,
            converter_lo=-128,
            converter_hi=127,
        )
        assert bar.cells_per_weight(bits) == coding.cells_per_weight


def test_times_are_decimals_not_floats() -> None:
    """70 ns at 0.1 GHz are 7 cycles (70 * 0.1 is 7.000000000000001 in float64); parts of a cycle count whole."""
    slow = _parsed(TEMPLATE.read_text().replace("clock_ghz: 1.0", "clock_ghz: 0.1"))
    assert [slow.cycles(ns) for ns in (70, 70.0, 0.1, 10.1, 30)] == [7, 7, 1, 2, 3]


def test_a_core_has_one_context_per_crossbar_unless_told() -> None:
    """The default of ``contexts`` follows ``crossbars``; a written value stands."""
    text = TEMPLATE.read_text()
    assert _parsed(text).core.contexts == 4
    assert _parsed(text.replace("crossbars: 4", "crossbars: 4\n  contexts: 2")).core.contexts == 2


def test_the_hash_counts_what_the_machine_is_not_how_it_is_written() -> None:
    """Prose, comments, order, spelling of numbers and written-out defaults leave the hash; numbers change it."""
    text = TEMPLATE.read_text()
    same = [
        text.replace("description: example", "description: another example"),
        re.sub(r" *#.*", "", text),
        text.replace("  rows: 4 # ours\n", "").replace("columns: 4 ", "rows: 4\n  columns: 4 "),
        text.replace("static_power_mw: 10.0", "static_power_mw: 1e1"),
        text.replace("static_power_mw: 10.0", "static_power_mw: 10"),
        text.replace("crossbars: 4", "crossbars: 4\n  contexts: 4"),
    ]
    hashes = {_parsed(variant).sha256 for variant in [text, *same]}
    assert len(set(same) | {text}) == 7
    assert len(hashes) == 1
    other = [
        text.replace("static_power_mw: 10.0", "static_power_mw: 10.5"),
        text.replace("crossbars: 4", "crossbars: 4\n  contexts: 3"),
        text.replace("name: my-chip", "name: my-chip-2"),
        text.replace("softmax: 8.0", "softmax: 9.0"),
    ]
    assert len({_parsed(variant).sha256 for variant in other} | hashes) == 5


def test_a_mesh_can_be_read_as_a_bus_but_not_the_other_way_round() -> None:
    """``network: bus`` puts all traffic on the global buffer's port, which is another machine."""
    mesh = load_architecture("isaac")
    bus = mesh.with_network("bus")
    assert bus.network.link_bytes_per_cycle == mesh.chip.global_buffer_bytes_per_cycle == 48
    assert bus.sha256 != mesh.sha256
    assert mesh.with_network("mesh") is mesh
    assert _parsed_again(bus) == bus
    with pytest.raises(UsageError, match="isaac has a bus, given network: mesh; describe its mesh"):
        bus.with_network("mesh")


def _parsed_again(arch: Architecture) -> Architecture:
    return _parsed(resolved_yaml(arch))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_resolved_machine_is_itself_a_legal_file(file: Path) -> None:
    """What ``cimc arch show`` prints, defaults written out, loads to the same machine."""
    arch = load_architecture(file)
    assert _parsed_again(arch) == arch
    assert _parsed_again(arch).sha256 == arch.sha256
    assert f"contexts: {arch.core.contexts}\n" in resolved_yaml(arch)
    assert resolved_yaml(arch).startswith(f"name: {arch.name}\n")


def test_a_machine_does_not_change() -> None:
    """Sections are immutable and convert nothing: neither assignment nor a number in a string works."""
    bar = load_architecture("isaac").crossbar
    with pytest.raises(ValidationError):
        bar.rows = 64  # pyright: ignore[reportAttributeAccessIssue] # the point of the test
    with pytest.raises(ValidationError):
        Crossbar.model_validate(bar.model_dump() | {"rows": "128"})


def test_the_json_schema_describes_every_key() -> None:
    """Editors show a sentence for each key, reject unknown ones, and do not ask for ``contexts``."""
    schema = json_schema()
    sections = [schema, *schema["$defs"].values()]
    assert len(sections) == 8
    for section in sections:
        assert section["additionalProperties"] is False
        assert all(key.get("description") for key in section["properties"].values())
    core = schema["$defs"]["Core"]
    assert set(core["properties"]) - set(core["required"]) == {"area_mm2", "contexts", "digital_unit"}
