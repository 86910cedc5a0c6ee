"""Level 2, level 3 and the instruction stream give the same integers; on lossy machines level 3 and the stream."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from cimc.dialects.cim import StageOp
from cimc.interpreters.mapped import execute_mapped, mapped_tensors
from cimc.interpreters.mapped_products import ExactCells
from cimc.interpreters.quantised import execute_quantised
from cimc.passes.place.network import COLUMNS
from cimc.runtime.functional import run_program
from tests.mapped.conftest import LOSSY, MACHINES, NETWORKS, Made

Get = Callable[[str, str, int], Made]


@pytest.mark.parametrize("copies", [1, 2, 3])
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("network", NETWORKS)
def test_level_3_equals_the_stream_and_level_2(network: str, machine: str, copies: int, made: Get) -> None:
    """Every named tensor and output, all frames; level 2 is equal exactly when converters lose nothing."""
    it = made(network, machine, copies)
    module, store = it.compiled.modules["mapped"], it.compiled.store
    names = tuple(mapped_tensors(module))
    mapped = execute_mapped(module, store, {"x": it.frames}, taps=names, arch=it.arch)
    assert it.compiled.linked is not None
    program = it.compiled.linked.program
    taps = [tap.name for tap in program.taps]
    models = it.compiled.linked.host_models
    stream = run_program(
        program,
        {key: store.array(key) for key in program.weights},
        {"x": it.frames},
        taps=taps,
        hosts=lambda name: store.array(models[int(name.split(".")[0])]).tobytes(),
    )
    assert set(taps) <= set(names)
    for tap in taps:
        np.testing.assert_array_equal(mapped.taps[tap], stream.taps[tap])
    delivered = {**mapped.outputs, **mapped.integer_outputs}
    np.testing.assert_array_equal(delivered["y"], stream.outputs["y"])
    lossless = all(mapped.lossless.values())
    assert lossless == (machine not in LOSSY)
    differ = 0
    for index in range(len(it.frames)):
        frame = {"x": it.frames[index : index + 1]}
        codes = [name for name in names if mapped.taps[name].dtype.kind in "iu"]
        level_2 = execute_quantised(it.compiled.modules["quantised"], store, frame, taps=codes)
        for name in codes:
            wanted, found = level_2.taps[name], mapped.taps[name][index]
            differ += not np.array_equal(wanted.reshape(found.shape), found)
        differ += not np.array_equal(level_2.outputs["y"][0], mapped.outputs["y"][index])
    assert (differ == 0) == lossless


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("machine", LOSSY)
def test_ideal_converters_give_level_2(network: str, machine: str, made: Get) -> None:
    """Steps, constants and multipliers of a lossy machine mean level 2 when no converter loses."""
    it = made(network, machine, 2)
    ideal = execute_mapped(
        it.compiled.modules["mapped"],
        it.compiled.store,
        {"x": it.frames},
        arch=it.arch,
        arrays=ExactCells(ideal_converters=True),
    )
    for index in range(len(it.frames)):
        frame = {"x": it.frames[index : index + 1]}
        level_2 = execute_quantised(it.compiled.modules["quantised"], it.compiled.store, frame)
        np.testing.assert_array_equal(ideal.outputs["y"][index], level_2.outputs["y"][0])


def test_the_machines_cut_as_they_should(made: Get) -> None:
    """The cases above hold row chunks in several contexts, several column blocks, and copies."""
    column = {name: index for index, name in enumerate(COLUMNS)}

    def tables(machine: str) -> list[npt.NDArray[np.int64]]:
        it = made("residual", machine, 3)
        stages = [op for op in it.compiled.modules["mapped"].walk() if isinstance(op, StageOp)]
        placed = [op.placement for op in stages if op.placement is not None and op.read is not None]
        return [it.compiled.store.array(placement.key.data) for placement in placed]

    chunked, narrow = tables("odd tiles, row chunks"), tables("narrow arrays")
    assert max(int(t[:, column["chunk"]].max()) for t in chunked) >= 2
    assert max(len(np.unique(t[:, column["n0"]])) for t in narrow) >= 2
    assert max(len(np.unique(t[:, [column["copy"], column["p0"]]], axis=0)) for t in narrow) == 3
    assert all(len(np.unique(t[:, column["core"]])) > 1 for t in chunked)
