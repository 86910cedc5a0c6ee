"""The architecture of a machine: one immutable description, validated, with the unit in each name.

Chip, core and crossbar are the three tiers; ``mode`` is the finest unit that software controls. The
meaning of every key and an annotated example stand in ``docs/architecture-file.md``; the sentences
below each key are also what error messages and the JSON Schema say.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from fractions import Fraction
from typing import Annotated, Any, Literal, Self, cast

from pydantic import ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from cimc.configuration.located import BrokenRule, Section
from cimc.diagnostics import UsageError
from cimc.runtime.program.opcodes import AluFunction

Count = Annotated[int, Field(gt=0, le=2**40)]
Entries = Annotated[int, Field(gt=0, le=2**20)]
"""Cores, crossbars and control streams: tables hold an entry for each, so that absurd numbers would take the memory."""
Extent = Annotated[int, Field(gt=0, le=2**13)]
"""Rows and columns of a crossbar, whose cells the functional engine holds; `jia` has 1152 rows."""
MOST_NODES = 2**20
"""Nodes of a network: the cycle engine holds the links of each."""
WholeOrNone = Annotated[int, Field(ge=0, le=2**40)]
Amount = Annotated[float, Field(ge=0, le=1e6)]
"""pJ or cycles of one element, byte or cell, mW: the cycle engine counts in attojoules of 64 bits."""
Duration = Annotated[float, Field(gt=0, le=1e9)]
"""Up to a second, in ns: cycles are 64 bits."""
Positive = Annotated[float, Field(gt=0, le=1e18)]
PerFunction = Mapping[str, Amount]

WeightEncoding = Literal["offset", "differential", "twos_complement"]
InputEncoding = Literal["offset", "sign_magnitude", "twos_complement"]
NetworkKind = Literal["mesh", "bus"]

FUNCTIONS = tuple(function.name.lower() for function in AluFunction)
"""Digital functions whose energy and time a machine may state (docs/isa.md)."""

NARROWEST_WEIGHT = 2
"""Bits of the narrowest weights that models are quantised to."""


class DigitalUnit(Section):
    """A vector unit: element-wise functions, reductions, and whatever the arrays do not take."""

    type: Literal["float32"]
    """number type of stored results (docs/numerics.md section 0 rule 11)"""
    lanes: Count
    """elements processed side by side"""
    startup_cycles: WholeOrNone
    """cycles before the first element of an instruction is done"""
    energy_pj_per_element: PerFunction
    """pJ per element and function name; `default` serves every function not named"""
    cycles_per_element: PerFunction = Field(default_factory=lambda: {"default": 1.0})
    """cycles per element and lane, by function name; `default` serves every function not named"""

    def broken_rules(self) -> Iterator[BrokenRule]:
        """Every function has a cost, and every cost belongs to a function of the instruction set."""
        for key in ("energy_pj_per_element", "cycles_per_element"):
            for name in sorted(set(getattr(self, key)) - set(FUNCTIONS) - {"default"}):
                near = get_close_matches(name, FUNCTIONS, n=1)
                hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(FUNCTIONS)}"
                yield BrokenRule((key, name), f"no digital function is called '{name}'; {hint}")
            if "default" not in getattr(self, key):
                message = "has no `default` for functions it does not name; add `default: <number>`"
                yield BrokenRule((key,), message)

    def energy_pj(self, function: str) -> float:
        """Energy of ``function`` on one element, in pJ."""
        return self.energy_pj_per_element.get(function, self.energy_pj_per_element["default"])

    def cycles(self, function: str) -> float:
        """Cycles that one lane spends on one element of ``function``."""
        return self.cycles_per_element.get(function, self.cycles_per_element["default"])


class HostLink(Section):
    """The path between the host's memory and the global buffer."""

    bytes_per_cycle: Positive
    """bytes moved in one cycle of the chip"""
    latency_cycles: WholeOrNone
    """cycles from request to first byte"""
    energy_pj_per_byte: Amount
    """pJ per byte moved"""


class Chip(Section):
    """The chip tier."""

    cores: Entries
    """number of cores"""
    allow_writes: bool
    """whether programs may write weights at run time (segments and turns); if not, a model must fit"""
    area_mm2: Positive | None = None
    """silicon of the whole chip; absent: not known"""
    global_buffer_bytes: Count
    """capacity of the global buffer (L0)"""
    global_buffer_bytes_per_cycle: Positive
    """width of the global buffer's port, shared by all its users"""
    global_buffer_latency_cycles: WholeOrNone
    """cycles from request to first byte of the global buffer"""
    global_buffer_energy_pj_per_byte: Amount
    """pJ per byte read from or written to the global buffer"""
    digital_unit: DigitalUnit | None = None
    """vector unit beside the global buffer; absent: none"""
    host_link: HostLink | None = None
    """link to the host; absent: nothing can be exchanged with a host at run time"""


def _contexts_may_be_absent(schema: JsonDict) -> None:
    """`contexts` always has a value but need not be written: its default is not a constant."""
    required = cast(list[str], schema["required"])
    required.remove("contexts")


class Core(Section):
    """The core tier: crossbars around a local buffer."""

    model_config = ConfigDict(json_schema_extra=_contexts_may_be_absent)

    crossbars: Entries
    """crossbars of one core"""
    contexts: Entries
    """control streams of one core (default: one per crossbar)"""
    area_mm2: Positive | None = None
    """silicon of one core with its crossbars; absent: not known"""
    local_buffer_bytes: Count
    """capacity of the local buffer (L1)"""
    local_buffer_bytes_per_cycle: Positive
    """width of the local buffer's port"""
    local_buffer_energy_pj_per_byte: Amount
    """pJ per byte read from or written to the local buffer"""
    digital_unit: DigitalUnit | None = None
    """vector unit of the core; absent: none"""

    @model_validator(mode="before")
    @classmethod
    def _one_context_per_crossbar(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "contexts" in data or "crossbars" not in data:
            return data
        return {**data, "contexts": data["crossbars"]}


class Crossbar(Section):
    """The crossbar tier: cells, the converters around them, and what a read and a write cost."""

    rows: Extent
    """wordlines of one crossbar"""
    columns: Extent
    """bitlines of one crossbar"""
    parallel_rows: Count
    """wordlines that may be active in one read"""
    logical_cells: bool = False
    """whether a crossbar holds rows x columns weights instead of cells; for runs beside PIMCOMP only"""
    area_mm2: Positive | None = None
    """silicon of the cells of one crossbar, without converters; absent: not known"""
    cell_device: str
    """kind of cell (reram, pcm, sram, flash ...); selects the device model of the simulator"""
    cell_bits: Annotated[int, Field(ge=1, le=8)]
    """bits stored in one cell"""
    weight_encoding: WeightEncoding
    """how signed weights become cells (docs/numerics.md section 1 step 2)"""
    column_flip: bool
    """whether a column of large digits may be stored complemented, which halves the largest sum"""
    input_encoding: InputEncoding
    """how signed inputs become digits (docs/numerics.md section 1 step 1)"""
    dac_bits: Annotated[int, Field(ge=1, le=8)]
    """bits of one input digit"""
    adc_bits: Annotated[int, Field(ge=1, le=16)]
    """bits of one converted sum"""
    adc_signed: bool
    """whether a converter covers negative sums"""
    adcs: Count
    """converters of one crossbar, which share its columns evenly"""
    subtract: Literal["analog", "digital"]
    """where the two polarities of `differential` weights are subtracted"""
    offset_sum: Literal["digital"]
    """where the sum of inputs that corrects `offset` weights is formed"""
    shift_add: Literal["periphery", "digital_unit"]
    """who adds digits, slices and row groups up"""
    read_latency_ns: Duration
    """time of one read: one row group, one input digit"""
    conversion_cycles: WholeOrNone
    """cycles of one conversion; 0: hidden in the read"""
    read_energy_pj: Amount
    """pJ of the array per read (one row group, one input digit)"""
    dac_energy_pj: Amount
    """pJ per active wordline and input digit"""
    conversion_energy_pj: Amount
    """pJ per conversion"""
    write_latency_ns: Duration
    """time to write one row of cells"""
    write_energy_pj_per_cell: Amount
    """pJ to write one cell"""
    endurance_writes: Count | None = None
    """writes a cell survives; absent: not limited"""

    def broken_rules(self) -> Iterator[BrokenRule]:
        """Rows at once, converters, the width of a weight, and encodings that exclude one another."""
        if self.parallel_rows > self.rows:
            message = (
                f"must be at most rows ({self.rows}), given {self.parallel_rows}; lower it or raise rows"
            )
            yield BrokenRule(("parallel_rows",), message)
        if self.adcs > self.columns:
            message = f"must be at most one per column ({self.columns}), given {self.adcs}; lower it"
            yield BrokenRule(("adcs",), message)
        cells = self.cells_per_weight(NARROWEST_WEIGHT)
        if cells > self.columns and not self.logical_cells:
            message = (
                f"must hold a 2-bit weight, which takes {cells} cells of {self.cell_bits} bits with "
                f"weight_encoding {self.weight_encoding}, given {self.columns}; raise columns or cell_bits"
            )
            yield BrokenRule(("columns",), message)
        if self.weight_encoding != "differential" or self.subtract != "analog":
            return
        if not self.adc_signed:
            message = (
                "must be true when weight_encoding is differential and subtract is analog (sums are "
                "negative too), given false; set it, or subtract: digital"
            )
            yield BrokenRule(("adc_signed",), message)
        if self.column_flip:
            message = (
                "must be false when weight_encoding is differential and subtract is analog (flipped columns "
                "need conversions of their own), given true; remove it, or set subtract: digital"
            )
            yield BrokenRule(("column_flip",), message)

    def cells_per_weight(self, weight_bits: int) -> int:
        """Cells, side by side in one row, of any weight of ``weight_bits`` (docs/numerics.md 1 step 2)."""
        if self.weight_encoding == "twos_complement":
            return 1 + math.ceil((weight_bits - 1) / self.cell_bits)
        slices = math.ceil(weight_bits / self.cell_bits)
        return 2 * slices if self.weight_encoding == "differential" else slices

    def weight_columns(self, weight_bits: int) -> int:
        """Weights of ``weight_bits`` side by side in one row of a crossbar; 0 where none fits."""
        return self.columns if self.logical_cells else self.columns // self.cells_per_weight(weight_bits)


class Network(Section):
    """The network between cores: a mesh of links, or one bus through the global buffer."""

    kind: NetworkKind
    """mesh (links reserved hop by hop) or bus (everything crosses the global buffer's port)"""
    columns: WholeOrNone = 0
    """nodes side by side in a mesh; core i sits at column i mod columns, row i div columns"""
    rows: WholeOrNone = 0
    """nodes one below the other in a mesh"""
    link_bytes_per_cycle: Positive
    """width of one link"""
    hop_cycles: WholeOrNone
    """cycles of one hop"""
    energy_pj_per_byte_hop: Amount
    """pJ per byte and hop"""
    global_buffer_node: WholeOrNone = 0
    """node that the global buffer and the host link hang on"""

    def broken_rules(self) -> Iterator[BrokenRule]:
        """A mesh has a size, a bus has none, and the global buffer hangs on a node."""
        for key in ("columns", "rows"):
            size = getattr(self, key)
            if self.kind == "mesh" and size == 0:
                yield BrokenRule((key,), "must be at least 1 in a mesh, given 0; state the size of the mesh")
            if self.kind == "bus" and size != 0:
                yield BrokenRule((key,), f"a bus has no {key}, given {size}; remove it or set kind: mesh")
        nodes = max(self.columns * self.rows, 1)
        if nodes > MOST_NODES:
            message = (
                f"must make at most {MOST_NODES} nodes with columns, given {nodes}; lower one of the two"
            )
            yield BrokenRule(("rows",), message)
        if self.global_buffer_node >= nodes:
            message = f"must be a node, 0 to {nodes - 1}, given {self.global_buffer_node}; name one of them"
            yield BrokenRule(("global_buffer_node",), message)


class Host(Section):
    """The host that runs what the chip cannot, for the time reported apart."""

    flops_per_cycle: Positive
    """floating-point operations in one cycle of the chip"""
    bytes_per_cycle: Positive
    """bytes of host memory moved in one cycle of the chip"""


class Architecture(Section):
    """A machine, fully resolved: every default is filled in."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
    """short name of the machine: letters, digits, dot, dash, underscore"""
    description: str
    """one sentence for lists"""
    provenance: str
    """where the numbers come from, as a whole; each number's own mark is the comment beside it"""
    mode: Literal["core", "crossbar", "wordline"]
    """finest unit that software controls; a finer mode includes the coarser modes' optimisations"""
    clock_ghz: Annotated[float, Field(gt=0, le=1000)]
    """clock that every figure in cycles refers to"""
    static_power_mw: Amount
    """power drawn whatever happens"""
    chip: Chip
    """section of the chip tier"""
    core: Core
    """section of the core tier"""
    crossbar: Crossbar
    """section of the crossbar tier"""
    network: Network
    """section of the network between cores"""
    host: Host | None = None
    """section of the host; absent: operators that need one cannot be timed"""

    def broken_rules(self) -> Iterator[BrokenRule]:
        """The rules that span sections."""
        network, chip, core, crossbar = self.network, self.chip, self.core, self.crossbar
        nodes = network.columns * network.rows
        if network.kind == "mesh" and nodes < chip.cores:
            message = (
                f"{network.columns} x {network.rows} = {nodes} nodes must hold chip.cores "
                f"({chip.cores}), given {network.rows}; enlarge the mesh or lower chip.cores"
            )
            yield BrokenRule(("network", "rows"), message)
        if self.mode == "wordline" and crossbar.parallel_rows >= crossbar.rows:
            message = (
                f"wordline mode schedules groups of wordlines, so parallel_rows must be below rows "
                f"({crossbar.rows}), given {crossbar.parallel_rows}; lower it or set mode: crossbar"
            )
            yield BrokenRule(("crossbar", "parallel_rows"), message)
        if self.mode == "core" and core.contexts != 1:
            message = f"core mode runs one stream per core, given {core.contexts}; set contexts: 1"
            yield BrokenRule(("core", "contexts"), message)
        if core.digital_unit is None and chip.digital_unit is None:
            message = "a machine needs a unit that requantises, given none; add this one or chip.digital_unit"
            yield BrokenRule(("core", "digital_unit"), message)
        if crossbar.shift_add == "digital_unit" and core.digital_unit is None:
            message = "needs core.digital_unit, given none; add that unit or set shift_add: periphery"
            yield BrokenRule(("crossbar", "shift_add"), message)

    def cycles(self, ns: float) -> int:
        """The least number of clock cycles that last ``ns`` nanoseconds.

        Both numbers count as the decimals they were written as: 70 ns at 0.1 GHz are 7 cycles,
        although the float product is a little above 7.
        """
        return math.ceil(Fraction(str(ns)) * Fraction(str(self.clock_ghz)))

    def with_network(self, kind: NetworkKind) -> Self:
        """This machine with its traffic on the given kind of network.

        As a bus, everything that a mesh would carry crosses the global buffer's port. A machine
        described with a bus states no links, so that it cannot become a mesh: :class:`UsageError`.
        """
        if kind == self.network.kind:
            return self
        if kind == "mesh":
            raise UsageError(f"{self.name} has a bus, given network: mesh; describe its mesh in the YAML")
        bus = Network(
            kind="bus",
            link_bytes_per_cycle=self.chip.global_buffer_bytes_per_cycle,
            hop_cycles=self.network.hop_cycles,
            energy_pj_per_byte_hop=self.network.energy_pj_per_byte_hop,
        )
        return self.model_copy(update={"network": bus})

    @property
    def sha256(self) -> str:
        """Hash of the resolved machine, in hex; an artifact runs only on the machine it names.

        Prose (``description``, ``provenance``) and everything that YAML leaves open (order, comments,
        written-out defaults) do not count.
        """
        resolved = self.model_dump(mode="json", exclude={"description", "provenance"})
        text = json.dumps(resolved, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()
