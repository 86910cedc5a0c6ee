"""Philox, its streams, and normals from its words (docs/device.md, random numbers)."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from cimc.runtime.device.draws import cell_normals
from cimc.runtime.device.normals import normal_units, normals
from cimc.runtime.device.random import Key, Purpose, cell_words, philox, stream_key, uniforms

CPU = torch.device("cpu")


# The published known-answer vectors of Random123 1.14 (kat_vectors, philox4x32 10).
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_known_answers(counter: str, key: str, expected: str):
    c = torch.tensor([int(word, 16) for word in counter.split()])
    low, high = (int(word, 16) for word in key.split())
    found = philox((c[0], c[1], c[2], c[3]), Key(low, high))
    assert " ".join(f"{int(word):08x}" for word in found) == expected


# The compiled loop for cells on the CPU draws what the tensor form draws from the documented counter.
@pytest.mark.parametrize("epoch", [0, 3, (5 << 32) | 7])
def test_cell_words_follow_the_documented_counter(epoch: int):
    key = stream_key(2**64 - 1, 4, 5, Purpose.FAULTS)
    words = cell_words(key, 1000, (3, 5, 6), epoch, CPU)
    for k, n, d in itertools.product(range(3), range(5), range(6)):
        place = torch.tensor([n, 1000 + k, d // 4 | (epoch >> 32) << 8, epoch & 0xFFFFFFFF])
        block = philox((place[0], place[1], place[2], place[3]), key)
        assert int(words[k, n, d]) == int(block[d % 4])


# The compiled normals of cells are the normals of their words, in shapes that do not fill a vector too.
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 6), (7, 32, 4)])
def test_cell_normals_are_the_normals_of_the_words(shape: tuple[int, int, int]):
    key = stream_key(1, 2, 3, Purpose.READ)
    words = cell_words(key, 9, shape, 4, CPU)
    assert torch.equal(cell_normals(key, 9, shape, 4, CPU), normals(words))


# Streams of different seeds, chips, layers and purposes have different keys, and bad numbers are refused.
def test_stream_keys_differ():
    places = itertools.product([0, 1, 2**40], range(4), range(4), Purpose)
    keys = [stream_key(seed, chip, layer, purpose) for seed, chip, layer, purpose in places]
    assert len(set(keys)) == len(keys)
    for seed, chip, layer in [(-1, 0, 0), (1 << 64, 0, 0), (0, -1, 0), (0, 0, 1 << 32)]:
        with pytest.raises(ValueError, match="must be 0"):
            stream_key(seed, chip, layer, Purpose.READ)


# The table's quantile is the normal quantile to 10^-4, at every octave of the word and at its ends.
def test_normals_are_the_quantile():
    rng = np.random.default_rng(0)
    words = np.concatenate(
        [rng.integers(0, 1 << 32, 200_000), *(2**o + np.arange(-40, 40) for o in range(6, 32))]
    )
    words = np.unique(np.clip(words, 0, 2**32 - 1))
    tail = (2.0 * (words & 0x7FFFFFFF) + 1) / 2**33
    exact = -stats.norm.ppf(tail) * np.where(words >> 31, -1, 1)
    found = normals(torch.from_numpy(words)).numpy()
    assert np.abs(found - exact).max() < 1e-4
    assert int(normal_units(torch.tensor([0]))) == -int(normal_units(torch.tensor([1 << 31]))) == 415364


# 2^20 normals of a stream pass Kolmogorov-Smirnov at 1e-4 and have normal moments and tails within 4 standard errors.
def test_normals_are_normal():
    words = cell_words(stream_key(11, 0, 0, Purpose.PROGRAMMING), 0, (512, 512, 4), 0, CPU).ravel()
    z = normals(words).numpy()
    count = len(z)
    assert stats.kstest(z, "norm").pvalue > 1e-4
    for power, moment, spread in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)]:
        assert abs(np.mean(z**power) - moment) < 4 * np.sqrt(spread / count)
    for edge in (2.0, 3.0, 4.0):
        p = 2 * stats.norm.sf(edge)
        assert abs((np.abs(z) > edge).sum() - count * p) < 4 * np.sqrt(count * p)
    u = uniforms(words).numpy()
    assert 0 < u.min() < u.max() < 1
    assert stats.kstest(u, "uniform").pvalue > 1e-4


# Neighbouring cells, digits, layers and chips are uncorrelated: |r| below 4.5 standard errors in 2^16 pairs.
def test_streams_are_independent():
    def draw(chip: int, layer: int, epoch: int = 0) -> np.ndarray:
        return normals(
            cell_words(stream_key(1, chip, layer, Purpose.PROGRAMMING), 0, (129, 129, 5), epoch, CPU)
        ).numpy()

    z = draw(0, 0)
    here = z[:128, :128, :4].ravel()
    others = [z[1:, :128, :4], z[:128, 1:, :4], z[:128, :128, 1:]]
    others += [draw(*place)[:128, :128, :4] for place in [(1, 0), (0, 1), (0, 0, 1)]]
    for other in others:
        assert abs(np.corrcoef(here, other.ravel())[0, 1]) < 4.5 / np.sqrt(len(here))
