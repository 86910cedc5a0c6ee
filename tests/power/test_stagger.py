"""Arrays that take turns: less power at once, the same results, and programs that always finish."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import cimc
from cimc import models
from cimc.backends.registry import resolve_backend
from cimc.diagnostics import UsageError
from cimc.mapping_options import MappingOptions
from cimc.runtime.cycle import layout as y
from cimc.runtime.cycle import simulate
from cimc.runtime.cycle.power_blocks import UNIT_MW, with_blocks
from cimc.runtime.cycle.power_bound import densest, least_peak
from cimc.runtime.cycle.repeated import RepeatedRun
from cimc.runtime.cycle.resolve import resolve
from cimc.runtime.cycle.slack import work
from cimc.runtime.cycle.stagger import stagger, static_mw
from cimc.runtime.functional import run_program
from cimc.runtime.program import Opcode
from cimc.runtime.program.opcodes import READS
from cimc.runtime.verifier import verify_program


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> cimc.Artifact:
    """A convolutional network with four copies of every layer, on the crossbar machine."""
    path = models.export_onnx("digits", tmp_path_factory.mktemp("power") / "digits.onnx")
    return cimc.compile(path, "puma", mapping=MappingOptions(copies=4))


# With a limit that nobody feels, the program has a wait and a signal for every block of reads, and the same energy.
def test_blocks_alone_change_no_energy(digits: cimc.Artifact):
    blocks = with_blocks(digits.program)
    before = simulate(digits.program, images=1, resident_weights=True)
    after = simulate(blocks.program, images=1, resident_weights=True)
    opcodes = blocks.program["instructions"]["opcode"].tolist()
    assert opcodes.count(Opcode.WAIT) == opcodes.count(Opcode.SIGNAL) == opcodes.count(Opcode.READ_XB)
    assert after.executed_reads == before.executed_reads
    assert after.energy_pj["array"] == before.energy_pj["array"]
    assert after.cycles <= before.cycles * 1.01


# Power is given back behind an instruction that takes the block's sums: a digital function where one follows the block
# at once, then nothing is added but the wait and the signal; else a copy of a sum to itself, as in contexts that send
# their sums to others. With the least limit the program still ends, with the same integers.
def test_signals_stand_behind_what_takes_the_sums(tmp_path: Path):
    puma = resolve_backend("puma").architecture()
    small = puma.model_copy(update={"core": puma.core.model_copy(update={"crossbars": 2})})
    artifact = cimc.compile(models.export_onnx("digits", tmp_path / "network.onnx"), small)
    blocks = with_blocks(artifact.program)
    given, made = artifact.program["instructions"], blocks.program["instructions"]
    opcodes = made["opcode"].tolist()
    reads = [row for row, opcode in enumerate(opcodes) if opcode in READS]
    behind: list[int] = []
    for read in reads:
        signal = opcodes.index(Opcode.SIGNAL, read)
        behind.append(opcodes[signal - 1])
        for part in ("", "_row"):
            assert made[f"a{part}"][signal - 1] == made[f"dst{part}"][read]
        assert set(opcodes[read + 1 : signal - 1]) <= {Opcode.END, Opcode.FREE}
    copied = opcodes.count(Opcode.COPY) - given["opcode"].tolist().count(Opcode.COPY)
    assert behind.count(Opcode.COPY) == copied > 0
    assert behind.count(Opcode.ALU) == len(reads) - copied > 0
    assert len(opcodes) == len(given["opcode"]) + 2 * len(reads) + copied
    limited = blocks.limited(blocks.least_mw)
    assert not verify_program(limited)
    x = {"x": models.images(1, models.network("digits").shape, seed=5)}
    plain = run_program(artifact.program, artifact.weights, x)
    for output, codes in run_program(limited, artifact.weights, x).outputs.items():
        np.testing.assert_array_equal(codes, plain.outputs[output])


# A digital function of another buffer, of another row, or of rows in another order takes none of the block's sums: the
# copy stands in for it.
@pytest.mark.parametrize("field", ["a", "a_row", "a_st"])
def test_other_functions_take_no_sums(digits: cimc.Artifact, field: str):
    program = digits.program
    opcodes = program["instructions"]["opcode"].tolist()
    read = next(row for row, opcode in enumerate(opcodes) if opcode in READS)
    function = opcodes.index(Opcode.ALU, read)
    rows, steps = program["instructions"][field].copy(), program["strides"]["row"].tolist()
    if field == "a_st":
        rows[function] = next(n for n, step in enumerate(steps) if step != steps[rows[function]])
    else:
        rows[function] += 1
    changed = replace(
        program, tables={**program.tables, "instructions": {**program["instructions"], field: rows}}
    )
    plain, copied = (
        with_blocks(p).program["instructions"]["opcode"].tolist().count(Opcode.COPY)
        for p in (program, changed)
    )
    assert copied == plain + 1


# What arrays draw at once, summed over the slices of their reads, never exceeds the limit.
@pytest.mark.parametrize(("share", "tilt"), [(0.1, 0.0), (0.3, 0.0), (0.3, 0.5), (0.3, -0.5)])
def test_arrays_stay_below_the_limit(digits: cimc.Artifact, share: float, tilt: float):
    blocks = with_blocks(digits.program, tilt)
    limit_mw = max(share * float(blocks.draws.sum()) * UNIT_MW, blocks.least_mw)
    timing = simulate(blocks.limited(limit_mw), images=2, resident_weights=True, trace=True)
    assert timing.slices is not None
    world = timing.slices.prepared.world
    rows = timing.slices.rows
    rows = rows[rows[:, y.X_UNIT] >= 0]
    instruction = (rows[:, y.X_ROW] - world.base("rows")) // y.ROW_WIDTH
    reads = rows[world.table("rows")[instruction, y.OP] == y.READ]
    changes = np.concatenate(
        [
            np.stack([reads[:, y.X_START], blocks.draws[reads[:, y.X_CONTEXT]]], axis=1),
            np.stack(
                [reads[:, y.X_START] + reads[:, y.X_CYCLES], -blocks.draws[reads[:, y.X_CONTEXT]]], axis=1
            ),
        ]
    )
    order = np.lexsort((changes[:, 1], changes[:, 0]))
    assert changes[order, 1].cumsum().max() <= round(limit_mw / UNIT_MW)


# A tilt makes the first stages take more than they draw, evenly down to the last, or the last ones up from the first;
# whatever is taken in a run fits under the limit, and the program still gives the same integers.
@pytest.mark.parametrize("tilt", [0.5, -0.5])
def test_tilted_blocks_take_more(digits: cimc.Artifact, tilt: float):
    blocks = with_blocks(digits.program, tilt)
    reads = blocks.draws > 0
    more = blocks.takes[reads] / blocks.draws[reads]
    first, last = (1.5, 1.0) if tilt > 0 else (1.0, 1.5)
    stages = len(
        set(
            digits.program["instructions"]["node"][digits.program["instructions"]["opcode"] == Opcode.READ_XB]
        )
    )
    np.testing.assert_allclose(np.unique(more.round(3)), np.linspace(1.0, 1.5, stages), atol=0.002)
    assert more[0] == pytest.approx(first, abs=1e-3)
    assert more[-1] == pytest.approx(last, abs=1e-3)
    window = simulate(digits.program, images=1, resident_weights=True).window_cycles
    trial = RepeatedRun(blocks.program, blocks.event, images=2, window_cycles=window, expected_cycles=10_000)
    limit_mw = max(0.2 * float(blocks.takes.sum()) * UNIT_MW, blocks.least_mw)
    cycles, _ = trial.run(blocks.counts(limit_mw))
    taken = float((blocks.takes * trial.array_cycles()).sum()) * UNIT_MW / cycles
    assert 0.3 * limit_mw < taken <= limit_mw
    limited = blocks.limited(limit_mw)
    assert not verify_program(limited)
    x = {"x": models.images(2, models.network("digits").shape, seed=3)}
    plain = run_program(digits.program, digits.weights, x)
    same = run_program(limited, digits.weights, x)
    for name, codes in plain.outputs.items():
        np.testing.assert_array_equal(same.outputs[name], codes)


# The staggered program passes the verifier, gives the same integers, takes at most the slack more, and peaks no higher.
@pytest.mark.parametrize("images", [1, 8])
def test_staggered_program_is_exact_and_in_time(digits: cimc.Artifact, images: int):
    found = stagger(digits.program, slack=0.05, images=images)
    assert found.limit_mw is not None
    assert found.after.peak_power_mw < found.before.peak_power_mw
    assert found.after.cycles <= 1.05 * found.before.cycles
    assert not verify_program(found.program)
    x = {"x": models.images(2, models.network("digits").shape, seed=3)}
    plain = run_program(digits.program, digits.weights, x)
    same = run_program(found.program, digits.weights, x)
    for name, codes in plain.outputs.items():
        np.testing.assert_array_equal(same.outputs[name], codes)


# A limit below what the largest block draws could never be kept: it is refused by name.
def test_limit_below_the_largest_block(digits: cimc.Artifact):
    blocks = with_blocks(digits.program)
    with pytest.raises(UsageError, match="largest block of reads draws"):
        blocks.limited(float(blocks.draws.max()) * UNIT_MW / 2)


# Runs that share their tables are the runs that the engine makes of the limited program.
def test_repeated_runs_equal_single_ones(digits: cimc.Artifact):
    blocks = with_blocks(digits.program)
    plain = simulate(blocks.program, images=2, resident_weights=True)
    window = plain.window_cycles

    def runs(expected_cycles: int) -> RepeatedRun:
        return RepeatedRun(
            blocks.program, blocks.event, images=2, window_cycles=window, expected_cycles=expected_cycles
        )

    trial = runs(10 * plain.cycles)
    for share in (0.5, 0.2, 0.5):
        limit_mw = share * float(blocks.draws.sum()) * UNIT_MW
        single = simulate(blocks.limited(limit_mw), images=2, resident_weights=True)
        cycles, peak_mw = trial.run(blocks.counts(limit_mw))
        assert cycles == single.cycles
        assert peak_mw == pytest.approx(single.peak_power_mw - static_mw(digits.program))
    assert runs(plain.cycles // 20).run(int(blocks.draws.sum())) == (plain.cycles, float("inf"))


# No limit brings the peak below the bound for the time it takes, and the bound is never below the mean.
@pytest.mark.parametrize("images", [1, 4])
def test_no_limit_beats_the_bound(digits: cimc.Artifact, images: int):
    before = simulate(digits.program, images=images, resident_weights=True)
    blocks = with_blocks(digits.program)
    static = static_mw(digits.program)
    for share in (0.05, 0.1, 0.2, 0.4, 0.8):
        limit_mw = max(share * float(blocks.draws.sum()), float(blocks.draws.max())) * UNIT_MW
        timed = simulate(
            blocks.limited(limit_mw),
            images=images,
            resident_weights=True,
            window_cycles=before.window_cycles,
        )
        bound = least_peak(digits.program, before, slack=timed.cycles / before.cycles - 1)
        assert bound.power_mw <= timed.peak_power_mw - static
    exact = least_peak(digits.program, before, slack=0.0)
    assert (float(before.power_mw.mean()) - static) * 0.999 <= exact.power_mw <= before.peak_power_mw - static


# Whatever the limit, every read issues between the earliest and the latest cycle that the bound takes it to have.
@pytest.mark.parametrize(("share", "images"), [(0.06, 1), (0.1, 3), (1.0, 1), (1.0, 3)])
def test_reads_issue_between_earliest_and_latest(digits: cimc.Artifact, share: float, images: int):
    blocks = with_blocks(digits.program)
    limit_mw = max(share * float(blocks.draws.sum()), float(blocks.draws.max())) * UNIT_MW
    timed = simulate(blocks.limited(limit_mw), images=images, resident_weights=True, trace=True)
    pieces = work(digits.program, images=images, window_cycles=timed.window_cycles, deadline=timed.cycles)
    assert timed.slices is not None
    assert pieces is not None
    world, rows = timed.slices.prepared.world, timed.slices.rows
    rows = rows[(rows[:, y.X_UNIT] >= 0) & (world.memory[rows[:, y.X_ROW] + y.OP] == y.READ)]
    issued = rows[np.lexsort((rows[:, y.X_START], rows[:, y.X_CONTEXT]))]
    resolved = resolve(digits.program)
    context = resolved.context[pieces.instruction]
    order = np.lexsort((pieces.earliest, context))
    order = order[np.isin(resolved.fields["opcode"][pieces.instruction[order]], sorted(READS))]
    np.testing.assert_array_equal(context[order], issued[:, y.X_CONTEXT])
    assert (pieces.earliest[order] <= issued[:, y.X_START]).all()
    assert (issued[:, y.X_START] <= pieces.latest[order]).all()
    if (
        share == 1.0
    ):  # nobody waits for power: what the run ends with is late by the waits for shared units alone
        assert (pieces.latest - pieces.earliest).min() < 0.2 * timed.cycles


# What must be spent between two cycles is the part of every piece that lies inside at its earliest and at its latest,
# here tried for all pairs.
def test_densest_stretch_equals_all_pairs():
    random = np.random.default_rng(5)
    earliest = random.integers(0, 300, 40)
    latest = earliest + random.integers(0, 60, 40)
    cycles, energy = random.integers(1, 50, 40), random.integers(1, 1000, 40)
    step, steps = 10, 45

    def inside(first: int, last: int) -> float:
        ends = np.minimum(earliest + cycles, last * step) - np.maximum(earliest, first * step)
        late = np.minimum(latest + cycles, last * step) - np.maximum(latest, first * step)
        return float((np.clip(np.minimum(ends, late), 0, None) * energy / cycles).sum())

    pairs = [(first, last) for first in range(steps) for last in range(first + 1, steps + 1)]
    most = max(inside(*pair) / (pair[1] - pair[0]) for pair in pairs)
    spent, first, last = densest(earliest, latest, cycles, energy, step, steps)
    assert spent / (last - first) == pytest.approx(most)
    assert spent == pytest.approx(inside(first, last))


# The compiler's option: the artifact on disk holds the program with turns, the report both peaks, and the numbers are
# those of a compile without it.
def test_a_compile_staggers(digits: cimc.Artifact, tmp_path: Path):
    path = models.export_onnx("digits", tmp_path / "digits.onnx")
    mapping = MappingOptions(copies=4, stagger=True, stagger_slack=0.05, stagger_images=2)
    made = cimc.compile(path, "puma", mapping=mapping, output=tmp_path / "made")
    plain = simulate(digits.program, images=2, resident_weights=True)
    timed = simulate(made.program, images=2, resident_weights=True, window_cycles=plain.window_cycles)
    said = cimc.load(tmp_path / "made").report["stagger"]
    assert said["before"]["peak_power_mw"] == pytest.approx(plain.peak_power_mw)
    assert said["after"]["peak_power_mw"] == pytest.approx(timed.peak_power_mw)
    assert timed.peak_power_mw < plain.peak_power_mw
    assert timed.cycles <= 1.05 * plain.cycles
    assert timed.latency_cycles <= 1.05 * plain.latency_cycles
    assert said["slack"] == 0.05
    assert "stagger" not in digits.report
    x = {"x": models.images(2, models.network("digits").shape, seed=3)}
    for name, codes in digits.run(x).outputs.items():
        np.testing.assert_array_equal(made.run(x).outputs[name], codes)


# Arrays that are written in every call are written in the runs that are compared; their program has events of its own,
# with which the turns get along.
def test_phases_are_staggered_with_their_writes(tmp_path: Path):
    isaac = resolve_backend("isaac").architecture()
    chip = isaac.chip.model_copy(update={"cores": 4})
    network = isaac.network.model_copy(update={"columns": 4, "rows": 1})
    small = isaac.model_copy(update={"chip": chip, "network": network})
    path = models.export_onnx("resnet-cifar-20", tmp_path / "network.onnx")
    program = cimc.compile(path, small).program
    assert int(program["contexts"]["phase"].max()) > 0
    found = stagger(program, slack=0.05)
    assert found.before.cycles == simulate(program, images=1).cycles
    assert found.after.peak_power_mw < found.before.peak_power_mw
    assert found.after.cycles <= 1.05 * found.before.cycles
    assert not verify_program(found.program)
    assert least_peak(program, found.before, slack=0.05).power_mw <= found.after.peak_power_mw - static_mw(
        program
    )


# A limit of the user's is taken as it is; one that no block fits is refused with the least that would do.
def test_a_compile_takes_a_limit(digits: cimc.Artifact, tmp_path: Path):
    path = models.export_onnx("digits", tmp_path / "digits.onnx")
    least_mw = float(with_blocks(digits.program).draws.max()) * UNIT_MW
    narrow = MappingOptions(copies=4, stagger=True, stagger_limit_mw=least_mw)
    program = cimc.compile(path, "puma", mapping=narrow).program
    assert int(program["events"]["initial"][-1]) == round(least_mw / UNIT_MW)
    below = MappingOptions(copies=4, stagger=True, stagger_limit_mw=0.9 * least_mw)
    with pytest.raises(UsageError, match=r"largest block of reads draws .*; raise the limit"):
        cimc.compile(path, "puma", mapping=below)


# Peak power as the objective means turns as well, unless they are switched off; options of turns need them.
def test_when_a_compile_staggers():
    assert MappingOptions(objective="peak-power").staggers
    assert not MappingOptions(objective="peak-power", stagger=False).staggers
    assert not MappingOptions(objective="latency").staggers
    assert MappingOptions(stagger=True).staggers
    with pytest.raises(ValueError, match="belongs to stagger: true"):
        MappingOptions(stagger_slack=0.1)
