"""Normals of cells: tensors on a GPU, a compiled loop on a CPU, the same bits (docs/device.md, random numbers)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cimc.runtime.device.kernels import normals_of
from cimc.runtime.device.normals import normals, quantile_table
from cimc.runtime.device.random import Key, cell_words, cell_words_cpu
from cimc.runtime.device.vector import LANES


def cell_normals(
    key: Key, first_row: int, shape: tuple[int, int, int], epoch: int, device: torch.device
) -> Tensor:
    """Standard normals float64 (rows, columns, digits) of the words that ``cell_words`` gives for the same place."""
    if device.type != "cpu":
        return normals(cell_words(key, first_row, shape, epoch, device))
    count = int(np.prod(shape))
    words = np.zeros(-(-count // LANES) * LANES, dtype=np.uint32)
    cell_words_cpu(key, first_row, epoch, words[:count].reshape(shape))
    found = np.empty(len(words))
    normals_of(words.view(np.int32), quantile_table().view(np.int32), found)
    return torch.from_numpy(found[:count].reshape(shape))
