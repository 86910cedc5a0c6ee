"""The weight store: what goes in comes out, once and for all, in the same bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cimc.diagnostics import UsageError
from cimc.dialects.weights import WeightStore


def filled(order: list[str]) -> WeightStore:
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array(7, np.int64),
        "c": np.arange(8, dtype=np.uint8)[::2],
        "empty": np.zeros((0, 3), np.int8),
    }
    store = WeightStore()
    for key in order:
        store.put(key, arrays[key])
    return store


def test_arrays_come_back_as_they_went_in(tmp_path: Path) -> None:
    """Shape, element type and contents survive the file; scalars and strided views too."""
    store = filled(["a", "b", "c", "empty"])
    store.save(tmp_path / "w.safetensors")
    loaded = WeightStore.load(tmp_path / "w.safetensors")
    assert loaded.keys() == store.keys() == ("a", "b", "c", "empty")
    for key in store.keys():
        assert loaded.array(key).dtype == store.array(key).dtype
        np.testing.assert_array_equal(loaded.array(key), store.array(key))
        assert loaded.sha256(key) == store.sha256(key)
    assert loaded.array("b").shape == ()


def test_the_same_contents_give_the_same_bytes(tmp_path: Path) -> None:
    """The order of putting does not show in the file."""
    filled(["a", "b", "c", "empty"]).save(tmp_path / "one")
    filled(["empty", "c", "b", "a"]).save(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_what_is_in_the_store_does_not_change() -> None:
    """Arrays are copied in and come out read-only."""
    source = np.ones(3, np.float32)
    store = WeightStore()
    store.put("a", source)
    source[:] = 0
    assert store.array("a").tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="read-only"):
        store.array("a")[0] = 5


def test_one_key_has_one_value() -> None:
    """Equal contents may be put again; others are refused, NaN patterns and types compared bitwise."""
    store = WeightStore()
    store.put("a", np.array([np.nan, 1], np.float32))
    assert store.put("a", np.array([np.nan, 1], np.float32)) == "a"
    for other in (
        np.array([0, 1], np.float32),
        np.array([np.nan, 1], np.float64),
        np.array([[np.nan, 1]], np.float32),
    ):
        with pytest.raises(ValueError, match="'a' is in the store already"):
            store.put("a", other)


def test_fresh_keys() -> None:
    """fresh counts up; a missing key is named."""
    store = filled(["a", "b"])
    assert store.fresh("z") == "z"
    assert store.put(store.fresh("a"), np.zeros(1)) == "a.1"
    assert store.fresh("a") == "a.2"
    with pytest.raises(KeyError, match="no weight 'c' in the store of 3"):
        store.array("c")


def test_hashes_tell_shape_and_type_apart() -> None:
    """The same bytes under another shape or type are another array."""
    store = WeightStore()
    for key, array in {
        "a": np.zeros(4, np.int8),
        "b": np.zeros((2, 2), np.int8),
        "c": np.zeros(1, np.int32),
    }.items():
        store.put(key, array)
    assert len({store.sha256(key) for key in store.keys()}) == 3


def test_elements_a_file_cannot_hold() -> None:
    """Text is refused when it is put, not when the artifact is written."""
    with pytest.raises(ValueError, match="which a store cannot hold"):
        WeightStore().put("a", np.array(["x"]))


@pytest.mark.parametrize("content", [None, b"", b"garbage" * 9, "cut"])
def test_damaged_files(tmp_path: Path, content: bytes | str | None) -> None:
    """A missing, empty, foreign or shortened file is a usage error that names it."""
    path = tmp_path / "w.safetensors"
    if content == "cut":
        filled(["a", "b"]).save(path)
        path.write_bytes(path.read_bytes()[:-4])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"w\.safetensors: cannot read the weights"):
        WeightStore.load(path)
