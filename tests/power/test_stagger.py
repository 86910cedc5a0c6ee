"""Arrays that take turns: less power at once, the same results, and programs that always finish."""

from __future__ import annotations

import numpy as np
import pytest

import cimc
from cimc import models
from cimc.diagnostics import UsageError
from cimc.mapping_options import MappingOptions
from cimc.runtime.cycle import simulate
from cimc.runtime.cycle.stagger import UNIT_MW, stagger, with_blocks
from cimc.runtime.functional import run_program
from cimc.runtime.program import Opcode
from cimc.runtime.verifier import verify_program


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> cimc.Artifact:
    """A convolutional network with four copies of every layer, on the crossbar machine."""
    path = models.export_onnx("digits", tmp_path_factory.mktemp("power") / "digits.onnx")
    return cimc.compile(path, "puma", mapping=MappingOptions(copies=4))


# With a limit that nobody feels, the program has a wait and a signal for every block of reads, and the same peak.
def test_blocks_alone_change_no_power(digits: cimc.Artifact):
    blocks = with_blocks(digits.program)
    before = simulate(digits.program, images=1, resident_weights=True)
    after = simulate(blocks.program, images=1, resident_weights=True)
    opcodes = blocks.program["instructions"]["opcode"].tolist()
    assert opcodes.count(Opcode.WAIT) == opcodes.count(Opcode.SIGNAL) == opcodes.count(Opcode.READ_XB)
    assert after.executed_reads == before.executed_reads
    assert after.energy_pj["array"] == before.energy_pj["array"]
    assert after.cycles <= before.cycles * 1.01


# What arrays draw at once, summed over the slices of their reads, never exceeds the limit where no block waits for
# the sums of others.
@pytest.mark.parametrize("share", [0.1, 0.3])
def test_arrays_stay_below_the_limit(digits: cimc.Artifact, share: float):
    from cimc.runtime.cycle import layout as y

    blocks = with_blocks(digits.program)
    limit_mw = max(share * float(blocks.draws.sum()), float(blocks.draws.max())) * UNIT_MW
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
