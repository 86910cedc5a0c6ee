"""Layers whose products are on arrays, in the place of a module's own."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from cimc.analog.codes import (
    InputEncoding,
    finite_range,
    input_codes,
    input_encoding,
    traced_codes,
    weight_codes,
    weight_scales,
)
from cimc.analog.layouts import Layout
from cimc.analog.matrices import Block, Programmed, compacted, program, program_codes
from cimc.analog.run import AnalogRun
from cimc.analog.straight_through import replaced
from cimc.analog.tile import product_tile
from cimc.analog.windows import tiles
from cimc.diagnostics import UsageError


class AnalogLayer(nn.Module):
    """A linear layer or convolution on arrays: quantise, multiply on cells, dequantise, add the bias.

    ``encoding`` are the input's codes; ``None`` takes the range of each input as it comes. With ``weight``, a float
    parameter, the layer can be trained and programs its cells anew when the weight changed; without, only codes
    exist, in the run's store.
    """

    weight_scale: Tensor
    weight_sum: Tensor
    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        name: str,
        layout: Layout,
        blocks: Sequence[Block],
        run: AnalogRun,
        programmed: Programmed,
        bias: nn.Parameter | None,
        encoding: InputEncoding | None,
        weight: nn.Parameter | None = None,
    ):
        super().__init__()
        self.name = name
        self.layout = layout
        self.blocks = tuple(blocks)
        self.run = run
        self.encoding = encoding
        self.register_parameter("bias", bias)
        self.register_parameter("weight", weight)
        self.register_buffer("weight_scale", programmed.scales, persistent=weight is None)
        self.register_buffer("weight_sum", programmed.sums, persistent=False)
        self.windows_done = 0
        self.calls = 0
        self._programmed_at: tuple[int, int] | None = None
        run.layers.append(self)

    def extra_repr(self) -> str:
        """Shown by ``print(module)``."""
        form, kept = self.layout.form, self.weight is not None
        return f"{form.in_channels}, {form.out_channels}, blocks={len(self.blocks)}, trainable={kept}"

    @property
    def input_bits(self) -> int:
        """Width of the input's codes."""
        return self.blocks[0].recipe.coding.input_bits

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output for ``x``; in training and evaluation alike with the physics of the chip."""
        given = x
        x = self.layout.prepare(x)
        if x.device.type == "meta":
            result = self._traced(x)
        elif self.weight is not None and torch.is_grad_enabled():
            result = self._differentiable(x)
        else:
            result = self._result(x, self._encoding(x))
        return result if x.ndim == given.ndim else result[0]

    def _traced(self, x: Tensor) -> Tensor:
        """What a pass allocates around the reads, on ``meta``, where the tracer counts it."""
        windows = self.layout.windows(traced_codes(x, self.input_bits), 0)
        result = torch.empty(self.layout.output_shape(x.shape), dtype=self._result_type(x), device=x.device)
        self.run.note_use(self.blocks, prod(windows.shape))
        return result

    def _result_type(self, x: Tensor) -> torch.dtype:
        kind = x.device.type if x.device.type != "meta" else self.weight_scale.device.type
        if kind != "meta" and torch.is_autocast_enabled(kind):
            return torch.get_autocast_dtype(kind)
        return x.dtype

    def _encoding(self, x: Tensor) -> InputEncoding:
        if self.encoding is not None:
            return self.encoding
        return input_encoding(*finite_range(x.detach(), self.name), self.input_bits)

    @torch.no_grad()
    def _result(self, x: Tensor, encoding: InputEncoding) -> Tensor:
        self._refresh()
        kind = self._result_type(x)
        # Integer sums must not be rounded to half precision.
        with torch.autocast(x.device.type, enabled=False):
            windows = self.layout.windows(input_codes(x, encoding, self.name), encoding.zero)
            result = torch.empty(self.layout.output_shape(x.shape), dtype=kind, device=x.device)
            places = self.layout.by_window(result)
            for block in self.blocks:
                with self.run.cells(block, x.device) as prepared:
                    for tile in tiles(windows.shape, self.run.tile_windows(block)):
                        found = product_tile(
                            block.recipe,
                            prepared,
                            windows.codes(tile, block.channels),
                            self.windows_done + tile.first,
                            self.calls,
                            self.run.read_bytes,
                            self.constants(block, encoding),
                        )
                        place = places[tile.place][..., block.columns]
                        place.copy_(found.view(place.shape))
            self.calls += 1
            self.windows_done += places[..., 0].numel()
        return result

    def constants(self, block: Block, encoding: InputEncoding) -> tuple[Tensor, Tensor, Tensor | None]:
        """What follows a read of ``block``: integer correction, scale of a unit, float bias, one per column."""
        columns, recipe = block.columns, block.recipe
        shift = -(encoding.zero - recipe.coding.input_offset) * (1 << recipe.frac_bits)
        unit = self.weight_scale[columns] * encoding.scale * 2.0**-recipe.frac_bits
        bias = None if self.bias is None else self.bias[columns].to(torch.float32)
        return self.weight_sum[columns] * shift, unit, bias

    def _differentiable(self, x: Tensor) -> Tensor:
        assert self.weight is not None
        encoding = self._encoding(x)
        value = self._result(x, encoding)
        bias = None if self.bias is None else self.bias.to(torch.float32)
        inside = x.clamp(encoding.low, encoding.high).to(torch.float32)
        smooth = self.layout.product(inside, self.weight.to(torch.float32), bias)
        return replaced(smooth.to(value.dtype), value)

    def _refresh(self) -> None:
        """Program the cells again if the weight changed since."""
        if self.weight is None:
            return
        now = (self.weight._version, self.weight.data_ptr())  # pyright: ignore[reportPrivateUsage]  # no public one
        if now == self._programmed_at:
            return
        weight = self.weight.detach()
        self._set(
            program(
                self.layout.form,
                self.blocks,
                lambda first, last: self.layout.rows(weight, first, last),
                self.run.keep_live,
                self.name,
            )
        )
        self._programmed_at = now

    def _set(self, programmed: Programmed) -> None:
        self.weight_scale = programmed.scales
        self.weight_sum = programmed.sums

    def codes(self) -> Tensor:
        """Codes of all weights in the layout of the layer's weight tensor, on the CPU."""
        self._refresh()
        parts = [compacted(self.run.stored(block), self.layout.form, block) for block in self.blocks]
        return self.layout.weight(torch.cat(parts))

    def _apply(self, fn: Any, recurse: bool = True) -> AnalogLayer:
        """As for every module, but scales stay float32: ``half()`` is about activations."""
        scale = self.weight_scale
        super()._apply(fn, recurse)
        self.weight_scale = scale.to(self.weight_scale.device)
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.weight is None:
            destination[prefix + "weight"] = self.codes()

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Codes with their scales, or float weights of the original module, which are quantised and programmed."""
        weight = state_dict.pop(prefix + "weight", None) if self.weight is None else None
        if weight is not None:
            self._load_weight(weight, state_dict, prefix)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _load_weight(self, weight: Tensor, state_dict: dict[str, Any], prefix: str) -> None:
        form, layout = self.layout.form, self.layout
        if weight.numel() != form.out_channels * form.in_channels // form.groups * form.taps:
            raise UsageError(
                f"a weight of shape {tuple(weight.shape)} does not belong here; load the state of the same network",
                where=self.name,
            )
        if weight.is_floating_point():
            programmed = program(
                form, self.blocks, lambda a, b: layout.rows(weight, a, b), self.run.keep_stored, self.name
            )
            state_dict[prefix + "weight_scale"] = programmed.scales
        else:
            if prefix + "weight_scale" not in state_dict:
                raise UsageError(
                    f"codes of weights come with their scales; {prefix}weight_scale is missing",
                    where=self.name,
                )
            rows = layout.rows(weight, 0, form.out_channels)
            scales = state_dict[prefix + "weight_scale"].to(torch.float32)
            programmed = program_codes(form, self.blocks, rows, scales, self.run.keep_stored)
        where = self.weight_scale.device
        self._set(Programmed(programmed.scales.to(where), programmed.sums.to(where)))


class TiedEmbedding(nn.Module):
    """An embedding whose table is the weight of an analog linear layer: rows of its codes, dequantised digitally.

    The table exists once. ids of any shape -> (*ids, K) in ``dtype``.
    """

    weight: nn.Parameter | None

    def __init__(self, layer: AnalogLayer, dtype: torch.dtype):
        super().__init__()
        # In a tuple, so that the layer is not a submodule twice.
        self._layer = (layer,)
        self.dtype = dtype
        self.register_parameter("weight", layer.weight)

    @property
    def embedding_dim(self) -> int:
        """K."""
        return self._layer[0].layout.form.in_channels

    @property
    def num_embeddings(self) -> int:
        """Rows of the table."""
        return self._layer[0].layout.form.out_channels

    def forward(self, ids: Tensor) -> Tensor:
        """Rows of the table."""
        layer = self._layer[0]
        if ids.device.type == "meta":
            return torch.empty((*ids.shape, self.embedding_dim), dtype=self.dtype, device="meta")
        if layer.weight is not None:
            rows = nn.functional.embedding(ids, layer.weight)
            flat = rows.detach().view(-1, self.embedding_dim)
            bits = layer.blocks[0].recipe.coding.weight_bits
            scales = weight_scales(flat, bits, layer.name)
            value = weight_codes(flat, scales, bits).to(torch.float32) * scales[:, None]
            return replaced(rows, value.view(rows.shape).to(rows.dtype))
        unique, places = torch.unique(ids, return_inverse=True)
        codes = layer.run.stored_rows(layer.blocks, unique).to(ids.device)
        table = codes.to(torch.float32) * layer.weight_scale[unique][:, None]
        return table.to(self.dtype)[places]

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """The table is loaded with the linear layer."""
        if self.weight is None:
            state_dict.pop(prefix + "weight", None)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
