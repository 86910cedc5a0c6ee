"""How a layer's weight tensor lies, and what it multiplies: linear, HF ``Conv1D``, convolutions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from cimc.analog.matrices import Form
from cimc.analog.windows import ConvWindows, Geometry, Rows, Windows

CONVOLUTIONS: Mapping[int, Callable[..., Tensor]] = {
    1: functional.conv1d,
    2: functional.conv2d,
    3: functional.conv3d,
}


class Layout(Protocol):
    """One kind of layer."""

    @property
    def form(self) -> Form:
        """Shape of the weights on arrays."""
        ...

    def rows(self, weight: Tensor, first: int, last: int) -> Tensor:
        """(last - first, K): weights of some output channels, in the order of a window's codes."""
        ...

    def weight(self, rows: Tensor) -> Tensor:
        """The weight tensor whose rows are ``rows`` (N, K of a group)."""
        ...

    def prepare(self, x: Tensor) -> Tensor:
        """What is done to the input before it is quantised, digitally."""
        ...

    def windows(self, codes: Tensor, zero: int) -> Windows:
        """Windows over the codes of the prepared input."""
        ...

    def output_shape(self, shape: torch.Size) -> tuple[int, ...]:
        """Shape of the result for a prepared input of ``shape``."""
        ...

    def by_window(self, result: Tensor) -> Tensor:
        """A view of the result with the windows' numbering first and channels last."""
        ...

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The float product of a prepared input, which gradients go through."""
        ...


@dataclass(frozen=True)
class LinearLayout:
    """``nn.Linear``, weight (N, K); ``transposed``: HF's ``Conv1D``, weight (K, N)."""

    inputs: int
    outputs: int
    transposed: bool = False

    @property
    def form(self) -> Form:
        """One tap."""
        return Form(self.outputs, self.inputs, 1)

    def rows(self, weight: Tensor, first: int, last: int) -> Tensor:
        """As :meth:`Layout.rows`."""
        return weight[:, first:last].T if self.transposed else weight[first:last]

    def weight(self, rows: Tensor) -> Tensor:
        """As :meth:`Layout.weight`."""
        return rows.T.contiguous() if self.transposed else rows

    def prepare(self, x: Tensor) -> Tensor:
        """Nothing."""
        return x

    def windows(self, codes: Tensor, zero: int) -> Windows:
        """A row is a window."""
        return Rows(codes.reshape(-1, self.inputs))

    def output_shape(self, shape: torch.Size) -> tuple[int, ...]:
        """As :meth:`Layout.output_shape`."""
        return (*shape[:-1], self.outputs)

    def by_window(self, result: Tensor) -> Tensor:
        """(M, N)."""
        return result.view(-1, self.outputs)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``x @ weight + bias``, either way round."""
        return functional.linear(x, weight.T if self.transposed else weight, bias)


@dataclass(frozen=True)
class ConvLayout:
    """``nn.Conv1d``, ``Conv2d`` and ``Conv3d``: weight (N, C / groups, kernel...), inputs with or without a batch."""

    inputs: int
    outputs: int
    groups: int
    geometry: Geometry
    outside: str
    """What lies outside the image: ``zeros``, or a mode of ``torch.nn.functional.pad``, done digitally."""

    @classmethod
    def of(cls, module: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> ConvLayout:
        """The layout of ``module``, padding by words resolved."""
        kernel, dilation = tuple(module.kernel_size), tuple(module.dilation)
        padding: tuple[tuple[int, int], ...]
        if module.padding == "same":
            totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
            padding = tuple((total // 2, total - total // 2) for total in totals)
        elif isinstance(module.padding, str):
            padding = tuple((0, 0) for _ in kernel)
        else:
            padding = tuple((p, p) for p in module.padding)
        geometry = Geometry(kernel, tuple(module.stride), padding, dilation)
        return cls(module.in_channels, module.out_channels, module.groups, geometry, module.padding_mode)

    @property
    def form(self) -> Form:
        """As many taps as the kernel has positions."""
        return Form(self.outputs, self.inputs, prod(self.geometry.kernel), self.groups)

    @property
    def _inside(self) -> Geometry:
        """The geometry of the prepared input."""
        if self.outside == "zeros":
            return self.geometry
        none = tuple((0, 0) for _ in self.geometry.kernel)
        return Geometry(self.geometry.kernel, self.geometry.stride, none, self.geometry.dilation)

    def rows(self, weight: Tensor, first: int, last: int) -> Tensor:
        """Kernel positions before channels."""
        return weight[first:last].movedim(1, -1).reshape(last - first, -1)

    def weight(self, rows: Tensor) -> Tensor:
        """As :meth:`Layout.weight`."""
        shape = (self.outputs, *self.geometry.kernel, self.inputs // self.groups)
        return rows.view(shape).movedim(-1, 1).contiguous()

    def prepare(self, x: Tensor) -> Tensor:
        """Padding that is not zeros, and a batch of one where there is none."""
        x = x if x.ndim == len(self.geometry.kernel) + 2 else x[None]
        if self.outside == "zeros":
            return x
        flat = [n for pair in reversed(self.geometry.padding) for n in pair]
        return functional.pad(x, flat, mode=self.outside)

    def windows(self, codes: Tensor, zero: int) -> Windows:
        """As :class:`~cimc.analog.windows.ConvWindows`."""
        return ConvWindows(codes, self._inside, zero)

    def output_shape(self, shape: torch.Size) -> tuple[int, ...]:
        """(B, N, positions...)."""
        return (shape[0], self.outputs, *self._inside.positions(shape[2:]))

    def by_window(self, result: Tensor) -> Tensor:
        """(B, positions..., N)."""
        return result.movedim(1, -1)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution; uneven padding is put around ``x`` first."""
        geometry = self._inside
        flat = [n for pair in reversed(geometry.padding) for n in pair]
        return CONVOLUTIONS[len(geometry.kernel)](
            functional.pad(x, flat), weight, bias, geometry.stride, 0, geometry.dilation, self.groups
        )
