"""The mapped level's own rules: tables decide what is computed, inputs and taps are checked, layouts return."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from cimc.diagnostics import CimError, MismatchError, UsageError
from cimc.dialects.cim import StageOp
from cimc.dialects.weights import WeightRefAttr
from cimc.interpreters import mapped_products
from cimc.interpreters.mapped import execute_mapped, mapped_tensors
from cimc.interpreters.mapped_rows import from_rows, to_rows
from cimc.passes.place.network import COLUMNS
from tests.mapped.conftest import Made

Get = Callable[[str, str, int], Made]
Table = npt.NDArray[np.int64]
COLUMN = {name: index for index, name in enumerate(COLUMNS)}


def with_table(it: Made, label: str, change: Callable[[Table], Table]) -> Any:
    """The mapped module with another placement table of one stage."""
    module = it.compiled.modules["mapped"].clone()
    stage = next(op for op in module.walk() if isinstance(op, StageOp) and op.label.data == label)
    assert stage.placement is not None
    store = it.compiled.store
    table = change(np.array(store.array(stage.placement.key.data)))
    stage.placement = WeightRefAttr.of(store.put(store.fresh("test.table"), table))
    return module


def run(it: Made, module: Any) -> npt.NDArray[Any]:
    """The output codes on all frames."""
    found = execute_mapped(module, it.compiled.store, {"x": it.frames}, arch=it.arch)
    return found.integer_outputs["y"]


def set_at(row: int, name: str, value: Callable[[int], int]) -> Callable[[Table], Table]:
    """Change one entry of a table."""

    def change(table: Table) -> Table:
        table[row, COLUMN[name]] = value(int(table[row, COLUMN[name]]))
        return table

    return change


def narrower(table: Table) -> Table:
    """The table with blocks that leave the last position of every row out."""
    table[:, COLUMN["p1"]] -= 1
    return table


def without_first(table: Table) -> Table:
    """The table without its first block."""
    return table[1:]


def first_twice(table: Table) -> Table:
    """The table with its first block a second time."""
    return np.concatenate([table, table[:1]])


def moved_start(table: Table) -> Table:
    """The last chunk starts one row earlier: blocks still cover the weights, but one starts inside a tile."""
    edge = table[:, COLUMN["k0"]].max()
    table[table[:, COLUMN["k1"]] == edge, COLUMN["k1"]] -= 1
    table[table[:, COLUMN["k0"]] == edge, COLUMN["k0"]] -= 1
    tiles = -(-(table[:, COLUMN["k1"]] - table[:, COLUMN["k0"]]) // 7)
    table[:, COLUMN["xbars"]] = tiles
    return table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_at(0, "k1", lambda k: k - 1), "held by 0 blocks"),
        (set_at(0, "n1", lambda n: n + 1), "crossbars|held by 2 blocks|not a block"),
        (set_at(0, "copy", lambda c: 7), "begins at output row 7"),
        (narrower, "belong to no copy or to two"),
        (set_at(0, "copy", lambda c: 1), "belong to 2 copies, the stage has 1"),
        (set_at(0, "xbars", lambda x: x - 1), "the table says"),
        (without_first, "held by 0 blocks"),
        (first_twice, "is held by 'c2' already"),
        (set_at(0, "xbar", lambda x: 40), "a core has 2"),
        (set_at(0, "core", lambda c: 100_000), "768 cores"),
        (moved_start, "inside a row tile of 7"),
    ],
)
def test_a_wrong_table_is_refused(change: Callable[[Table], Table], message: str, made: Get) -> None:
    """Coverage, crossbar counts, copies and places of a table are checked, with the stage's name."""
    it = made("residual", "odd tiles, row chunks", 1)
    with pytest.raises(MismatchError, match=message) as caught:
        run(it, with_table(it, "c2", change))
    assert str(caught.value).startswith("c2 ")


def test_rows_are_computed_by_the_copy_they_are_dealt_to(made: Get) -> None:
    """Swapping which block a copy holds keeps the result, since copies hold equal weights; order is free."""
    it = made("residual", "odd tiles, row chunks", 3)
    plain = run(it, it.compiled.modules["mapped"])
    np.testing.assert_array_equal(run(it, with_table(it, "c2", lambda table: table[::-1])), plain)


def test_products_in_batches_give_the_same_sums(made: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells that do not fit in memory together are made and used a few at a time: the same sums."""
    it = made("residual", "odd tiles, row chunks", 3)
    whole = run(it, it.compiled.modules["mapped"])
    monkeypatch.setattr(mapped_products, "BATCH_WEIGHTS", 1)
    assert np.array_equal(run(it, it.compiled.modules["mapped"]), whole)
    assert len(np.unique(whole)) > 10


def test_images_and_tokens_return_to_onnx_order() -> None:
    """Rows of an image are (H, W, C), rows of tokens (T, 1, F); both come back."""
    rng = np.random.default_rng(1)
    for frame in ((3, 4, 5), (4, 5), (7,), (2, 3, 4, 5)):
        frames = rng.normal(size=(2, *frame))
        rows = to_rows(frames, frame)
        assert rows.ndim == 4
        np.testing.assert_array_equal(from_rows(rows, frame), frames)
    image = rng.normal(size=(1, 3, 4, 5))
    assert to_rows(image, (3, 4, 5))[0, 1, 2, 0] == image[0, 0, 1, 2]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "input 'x' is missing"),
        ({"z": (3, 7, 8)}, "there is no input 'z'"),
        ({"x": (3, 8, 7)}, "has shape"),
    ],
)
def test_wrong_inputs_are_refused(inputs: dict[str, tuple[int, ...]], message: str, made: Get) -> None:
    """Names and shapes of inputs are checked, exit code 2."""
    it = made("residual", "isaac", 1)
    arrays = {name: np.zeros((1, *shape), np.float32) for name, shape in inputs.items()}
    with pytest.raises(CimError, match=message) as caught:
        execute_mapped(it.compiled.modules["mapped"], it.compiled.store, arrays, arch=it.arch)
    assert caught.value.exit_code == 2


def test_unknown_taps_and_a_missing_machine_are_refused(made: Get) -> None:
    """A tap inside a stage is named in the error; without a machine nothing runs."""
    it = made("residual", "isaac", 1)
    module, store = it.compiled.modules["mapped"], it.compiled.store
    with pytest.raises(UsageError, match="no tensor 'c1'"):
        execute_mapped(module, store, {"x": it.frames}, taps=["c1"], arch=it.arch)
    with pytest.raises(UsageError, match="give its architecture"):
        execute_mapped(module, store, {"x": it.frames})
    assert "s" in mapped_tensors(module)
