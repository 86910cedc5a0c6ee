"""The part of a product outside the converter: one exact integer matrix (docs/device.md, shortcuts).

It holds the weights of all conversions that collapsed and the corrections that are linear in the values. Where only
the offset encoding's correction is left, every weight is the same and the product is a sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cimc.runtime.device.exact import column_sums, exact_type, largest_magnitude, largest_sum, product
from cimc.runtime.device.kernels import add_products, pack_digits
from cimc.runtime.device.packing import INT16, INT32, Cells16, pack16, padded_rows, windows_per_block
from cimc.runtime.device.recipe import Recipe


@dataclass(frozen=True)
class Dense:
    """``sum_k value_k * w_kn`` for ``w`` = ``uniform`` everywhere, or ``weights`` (K, N) of a float type that is
    exact.

    ``packed`` holds the weights instead where the CPU kernel serves them. Codes are taken less ``centre``, which
    halves the largest sum, and ``constant`` int64 (N) makes up for it. Results are shifted up by ``shift`` bits.
    """

    uniform: int
    weights: Tensor | None
    packed: Cells16 | None
    centre: int
    constant: Tensor
    shift: int

    @property
    def size_bytes(self) -> int:
        """Bytes of the weights."""
        held = 0 if self.packed is None else self.packed.nbytes
        return held if self.weights is None else held + self.weights.numel() * self.weights.element_size()


def dense_of(recipe: Recipe, groups: list[Tensor | None], codes: Tensor, kernels: bool) -> Dense:
    """The matrix of all row groups, each an integer (rows, N), or None where only the offset's correction is left.

    ``codes`` (K, N) give columns and device; ``kernels`` allows the CPU kernel.
    """
    columns, where = codes.shape[1], codes.device
    coding = recipe.coding
    uniform = -coding.weight_offset if recipe.converter else -coding.weight_offset << recipe.grid_bits
    if all(group is None for group in groups):
        constant = torch.zeros(columns, dtype=torch.int64, device=where)
        return Dense(uniform, None, None, _centre(recipe), constant, _shift(recipe))
    heights = np.diff(recipe.bounds).tolist()
    matrix = torch.cat(
        [
            torch.full((rows, columns), uniform, dtype=torch.int64, device=where) if group is None else group
            for rows, group in zip(heights, groups, strict=True)
        ]
    )
    return dense_matrix(recipe, matrix, kernels)


def dense_matrix(recipe: Recipe, matrix: Tensor, kernels: bool) -> Dense:
    """The product of the integers ``matrix`` (K, N)."""
    coding, centre = recipe.coding, _centre(recipe)
    constant = (centre - coding.input_offset) * column_sums(matrix)
    magnitude = max(centre - coding.input_min, coding.input_max - centre)
    peak = largest_sum(magnitude, matrix)
    narrow = peak < INT32 and magnitude <= INT16 and matrix.numel() and largest_magnitude(matrix) < INT16
    if kernels and matrix.device.type == "cpu" and narrow:
        packed = pack16(matrix.numpy()[:, None, :])
        return Dense(0, None, packed, centre, constant, _shift(recipe))
    return Dense(0, matrix.to(exact_type(peak)), None, centre, constant, _shift(recipe))


def _centre(recipe: Recipe) -> int:
    return (recipe.coding.input_min + recipe.coding.input_max + 1) // 2


def _shift(recipe: Recipe) -> int:
    return recipe.coding.frac_bits if recipe.converter else 0


def read_dense(recipe: Recipe, dense: Dense, x: Tensor, total: Tensor, chunk_bytes: int) -> None:
    """Write the product of codes ``x`` (M, K) to ``total`` (M, N)."""
    if dense.packed is not None:
        total[:] = dense.constant
        _add_packed(dense, dense.packed, x, total.numpy(), chunk_bytes)
        total <<= dense.shift
        return
    if dense.weights is None:
        block = max(1, chunk_bytes // (8 * x.shape[1] + 16))
        for start in range(0, len(x), block):
            # The sum makes a copy in int64 first.
            values = x[start : start + block].sum(dim=1, keepdim=True, dtype=torch.int64)
            values -= recipe.coding.input_offset * x.shape[1]
            total[start : start + block] = (values * dense.uniform) << dense.shift
        return
    kind = dense.weights.dtype
    size = torch.finfo(kind).bits // 8
    block = max(1, chunk_bytes // (size * x.shape[1] + (size + 8) * total.shape[1]))
    for start in range(0, len(x), block):
        part = product(x[start : start + block].to(kind) - dense.centre, dense.weights)
        total[start : start + block] = (part.to(torch.int64) + dense.constant) << dense.shift


def _add_packed(dense: Dense, packed: Cells16, x: Tensor, total: np.ndarray, chunk_bytes: int) -> None:
    """Add the product by the CPU kernel, a block of windows at a time."""
    row = padded_rows(x.shape[1], 2)
    factor = (np.arange(len(row)) < x.shape[1]).astype(np.int32)
    whole_code = np.array([[0, 0, -1]], dtype=np.int32)
    block = max(1, chunk_bytes // (6 * len(row)))
    for start in range(0, len(x), block):
        values = x[start : start + block].to(torch.int32, copy=True)
        values -= dense.centre
        windows = windows_per_block(1, len(values))
        digits = np.empty((-(-len(values) // windows), 1, windows, len(row)), dtype=np.int16)
        pack_digits(values.numpy(), row, factor, whole_code, False, digits)
        add_products(digits, packed, total[start : start + block])
        del values, digits  # before the next block is made
