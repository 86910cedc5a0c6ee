"""Convolution and maximum over windows of images, in numpy.

A compile needs nothing else of torch, whose import costs as much as all convolutions of a ResNet-50's calibration.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float32]

BAND_BYTES = 4 << 20
"""Of one band of output rows' windows, written out for a matrix product: about a core's second-level cache."""


@dataclass(frozen=True)
class Windows:
    """Windows of ``kernel`` pixels, ``dilations`` apart, that advance by ``strides``; (down, right) each."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]

    def extents(self, height: int, width: int) -> tuple[int, int]:
        """Windows that fit an image of ``height`` x ``width`` pixels, down and right."""
        reach = [(k - 1) * gap + 1 for k, gap in zip(self.kernel, self.dilations, strict=True)]
        steps = self.strides
        return (height - reach[0]) // steps[0] + 1, (width - reach[1]) // steps[1] + 1

    def taps(self, images: Reals, first: int, rows: int) -> Iterator[Reals]:
        """Each pixel of the kernel, row by row, as every window in output rows ``first`` to ``first + rows`` sees it.

        ``images``: (..., H, W). Views of shape (..., rows, OW).
        """
        (down, right), width = self.strides, self.extents(*images.shape[-2:])[1]
        for i in range(self.kernel[0]):
            top = i * self.dilations[0] + first * down
            for j in range(self.kernel[1]):
                left = j * self.dilations[1]
                yield images[
                    ...,
                    top : top + (rows - 1) * down + 1 : down,
                    left : left + (width - 1) * right + 1 : right,
                ]


def convolve(images: Reals, weight: Reals, windows: Windows, groups: int) -> Reals:
    """``y[n, m] = sum over c, i, j of x[n, c] * w[m, c, i, j]``: (N, C, H, W) padded, (M, C / groups, kH, kW).

    Sums of a group's products are one matrix product for a band of output rows. Returns (N, M, OH, OW).
    """
    count, channels = images.shape[:2]
    height, width = windows.extents(*images.shape[2:])
    depth = channels // groups
    matrix = weight.reshape(groups, len(weight) // groups, depth * prod(windows.kernel))
    split = images.reshape(count, groups, depth, *images.shape[2:])
    band = max(1, BAND_BYTES // (images.itemsize * channels * prod(windows.kernel) * width))
    result = np.empty((count, groups, matrix.shape[1], height, width), np.float32)
    points = _is_point(windows)
    for image, sums in zip(split, result, strict=True):
        for first in range(0, height, band):
            rows = min(band, height - first)
            if points:
                seen = image[:, :, first : first + rows]
            else:
                seen = np.empty((groups, depth, prod(windows.kernel), rows, width), np.float32)
                for tap, pixels in enumerate(windows.taps(image, first, rows)):
                    seen[:, :, tap] = pixels
            np.matmul(
                matrix,
                seen.reshape(groups, -1, rows * width),
                out=sums.reshape(groups, -1, height * width)[..., first * width : (first + rows) * width],
            )
    return result.reshape(count, len(weight), height, width)


def _is_point(windows: Windows) -> bool:
    """Whether every pixel is a window: a matrix product takes the image as it lies."""
    return prod(windows.kernel) == 1 and windows.strides == (1, 1)


def maximum(images: Reals, windows: Windows) -> Reals:
    """The largest pixel of every window: (N, C, H, W), padded with the smallest, to (N, C, OH, OW)."""
    taps = windows.taps(images, 0, windows.extents(*images.shape[2:])[0])
    result = next(taps).copy()
    for pixels in taps:
        np.maximum(result, pixels, out=result)
    return result
