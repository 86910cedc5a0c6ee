"""The live-module door: a torch module with its products on the arrays of a machine (docs/streaming.md)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cimc.analog.codes import InputEncoding
from cimc.analog.layers import AnalogLayer, TiedEmbedding
from cimc.analog.matrices import Block, Programmed, RowSource, cut, machine_coding, program
from cimc.analog.plan import Resident
from cimc.analog.ranges import Batch, Seen, encoding_of, observe_inputs, with_steps
from cimc.analog.run import AnalogRun, MemoryOptions
from cimc.analog.selection import Selected, Selection, select
from cimc.backends.registry import resolve_backend
from cimc.backends.schema import Architecture
from cimc.diagnostics import DoesNotFitError, UsageError
from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.device.loader import load_device
from cimc.runtime.device.recipe import Chip, DeviceModel
from cimc.runtime.device.streaming.placement import Policy

DEFAULT_CHUNK = 16 << 20
LEAST_CHUNK = 1 << 16

Activations = Literal["calibrated", "dynamic"]
"""Ranges of inputs fixed from calibration data, or taken anew from every input."""
WeightSource = Callable[[str, tuple[int, ...], int, int], Tensor]
"""``weights(name, shape, first, last)``: entries first … last - 1 along the first axis of a parameter."""


def convert(
    module: nn.Module,
    arch: str | Path | Architecture,
    device: str | Path | DeviceModel,
    *,
    calibration: Iterable[Batch] | None = None,
    activations: Activations | None = None,
    example: Batch | None = None,
    streaming: Policy = "auto",
    budget_bytes: int | None = None,
    inference_chunk_size: int = DEFAULT_CHUNK,
    prefetch_depth: int | None = None,
    resident: Resident = "cells",
    skip: Sequence[str] = (),
    weight_bits: int = 8,
    input_bits: int = 8,
    chip: Chip | None = None,
    trainable: bool = False,
    weights: WeightSource | None = None,
) -> nn.Module:
    """Put every Linear, Conv1d/2d/3d and HF ``Conv1D`` of ``module`` on arrays of ``arch`` with cells of ``device``.

    The module itself is changed and returned; layers are programmed one by one and their float weights freed.

    Parameters
    ----------
    calibration
        Batches (a tensor, a tuple of arguments, or a mapping of keywords each) that fix input ranges, and converter
        steps where converters can lose information. Without it steps cover every possible sum.
    activations
        ``calibrated`` (the default with calibration) or ``dynamic`` (the default without): the range of each input
        tensor as it comes, which depends on what is in one batch.
    example
        A call of the size that memory is planned for, ``meta`` tensors allowed; by default the first call there is.
    streaming, budget_bytes, prefetch_depth, resident
        What stays in memory: ``docs/streaming.md``. Without a budget, ``auto`` takes the memory that is available.
    inference_chunk_size
        Bytes of input windows, results and partial sums that one step of a layer holds; no result depends on it.
    skip
        Patterns of layer names that stay digital.
    chip
        Seed, instance and age of the chip; by default seed 0, fresh.
    trainable
        Keep float weights under their names, with straight-through gradients. Excludes streaming.
    weights
        Where parameters on the ``meta`` device come from, some rows at a time.

    Raises
    ------
    UsageError
        For an unknown machine or device, a policy, size or pattern that makes no sense, parameters without values.
    DoesNotFitError
        When the budget is below what the largest block needs, before any work.
    UnsupportedError
        When weights or calibration data are not finite, or a weight does not fit the machine.

    """
    machine = arch if isinstance(arch, Architecture) else resolve_backend(arch).architecture()
    cells = load_device(device) if isinstance(device, str | Path) else device
    _check(inference_chunk_size, activations, calibration, streaming, trainable)
    selection = select(module, skip)
    where = _device_of(module)
    options = MemoryOptions(streaming, budget_bytes, inference_chunk_size, prefetch_depth, resident)
    run = AnalogRun(where, options)
    run.training_here = trainable
    run.digital.update(selection.digital)
    _warn_of_fused(selection)
    coding = machine_coding(machine, weight_bits, input_bits)
    keys = count()
    blocks = {
        selected.name: _cut(selected, machine, coding, cells, chip or Chip(0), keys)
        for selected in selection.layers
    }
    if budget_bytes is not None:
        _check_budget(blocks, budget_bytes)
    # The device file may bring converters of its own, which the recipes hold.
    held = next(iter(blocks.values()))[0].recipe.coding
    lossy = not held.always_lossless(machine.crossbar.rows)
    seen: Mapping[str, Seen] = {}
    if calibration is not None:
        watched = {s.name: (s.module, s.layout) for s in selection.layers}
        seen = observe_inputs(module, watched, calibration, lossy)
    static = activations == "calibrated" or (activations is None and calibration is not None)
    if lossy:
        how = "calibrated" if calibration is not None else "cover every possible sum (no calibration)"
        run.converters.append(f"{held.converter_lo} … {held.converter_hi}, steps {how}")
    _materialise(module, selection, weights, where)
    for selected in selection.layers:
        encoding = encoding_of(seen[selected.name], input_bits) if static else None
        record = seen.get(selected.name) if lossy else None
        layer = _converted(
            selected, blocks[selected.name], run, encoding, record, lossy, trainable, weights, where
        )
        layer.train(selected.module.training)
        module = _replace(module, selected.module, layer)
        for embedding in selected.embeddings:
            kind = torch.float32 if embedding.weight.device.type == "meta" else embedding.weight.dtype
            module = _replace(module, embedding, TiedEmbedding(layer, kind))
    run.attach(module)
    module.memory_report = run.memory_report  # pyright: ignore[reportArgumentType]  # any attribute may be set
    module.what_if = run.what_if  # pyright: ignore[reportArgumentType]
    if example is not None:
        args, kwargs = _call_of(example)
        run.prepare_for(args, kwargs)
    return module


def run_of(module: nn.Module) -> AnalogRun:
    """The run of a converted module. Raises :class:`UsageError` for a module that is not converted."""
    for layer in module.modules():
        if isinstance(layer, AnalogLayer):
            return layer.run
    raise UsageError("the module holds no analog layer; convert it first", where="analog")


def _call_of(example: Batch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, Mapping):
        return (), dict(example)
    return (example if isinstance(example, tuple) else (example,)), {}


def _check(
    chunk: int,
    activations: Activations | None,
    calibration: Iterable[Batch] | None,
    streaming: Policy,
    trainable: bool,
) -> None:
    if chunk < LEAST_CHUNK:
        raise UsageError(
            f"inference_chunk_size is at least {LEAST_CHUNK} bytes, got {chunk}; raise it", where="convert"
        )
    if activations not in (None, "calibrated", "dynamic"):
        raise UsageError(f"activations is 'calibrated' or 'dynamic', got {activations!r}", where="convert")
    if activations == "calibrated" and calibration is None:
        raise UsageError(
            "activations='calibrated' needs calibration batches; give some, or activations='dynamic'",
            where="convert",
        )
    if trainable and streaming not in (False, "auto"):
        raise UsageError(
            f"trainable keeps float weights in memory, which streaming={streaming!r} does not; drop one",
            where="convert",
        )


def _device_of(module: nn.Module) -> torch.device:
    """Where the module's values are; the CPU when it has none yet."""
    kinds = {tensor.device for tensor in (*module.parameters(), *module.buffers())} - {torch.device("meta")}
    if len(kinds) > 1:
        names = ", ".join(sorted(str(kind) for kind in kinds))
        raise UsageError(f"the module lies on several devices ({names}); move it to one", where="convert")
    return kinds.pop() if kinds else torch.device("cpu")


def _warn_of_fused(selection: Selection) -> None:
    fused = sorted(name for name, why in selection.digital.items() if "past the layer" in why)
    if fused:
        warnings.warn(
            f"{len(fused)} layers stay digital ({fused[0]} ...): the module around them multiplies by their weights "
            "itself; write attention with Linear layers to put them on arrays",
            UserWarning,
            stacklevel=3,
        )


def _cut(
    selected: Selected,
    arch: Architecture,
    coding: Coding,
    device: DeviceModel,
    chip: Chip,
    keys: Iterator[int],
) -> list[Block]:
    return cut(selected.layout.form, selected.name, selected.number, keys, arch, coding, device, chip)


def _check_budget(blocks: Mapping[str, Sequence[Block]], budget_bytes: int) -> None:
    """A bound that needs no work: the codes of the largest block."""
    largest = max((b for found in blocks.values() for b in found), key=lambda b: b.width * b.recipe.rows)
    size = largest.width * largest.recipe.rows * (1 if largest.recipe.coding.weight_bits <= 8 else 2)
    if budget_bytes < size:
        raise DoesNotFitError(
            f"a budget of {budget_bytes} bytes is below the codes of the largest block, {largest.name}, of {size} "
            "bytes; its cells need several times as much: raise the budget",
            where="convert",
        )


def _materialise(
    module: nn.Module, selection: Selection, weights: WeightSource | None, where: torch.device
) -> None:
    """Give values to parameters on ``meta`` that are not a layer's weight, which comes block by block."""
    later = {id(s.module.weight) for s in selection.layers}
    empty = [name for name, buffer in module.named_buffers() if buffer.device.type == "meta"]
    if empty:
        raise UsageError(f"buffer {empty[0]} is on meta and has no values; compute it", where="convert")
    for name, parameter in list(module.named_parameters()):
        if parameter.device.type != "meta":
            continue
        if weights is None:
            raise UsageError(
                f"parameter {name} is on meta and has no values; give `weights`, or load a checkpoint",
                where="convert",
            )
        if id(parameter) in later:
            continue
        owner, _, leaf = name.rpartition(".")
        shape = tuple(parameter.shape)
        value = weights(name, shape, 0, shape[0]).to(where)
        module.get_submodule(owner).register_parameter(leaf, nn.Parameter(value, requires_grad=False))


def _rows_of(selected: Selected, weights: WeightSource | None) -> RowSource:
    """Rows of a layer's weight: its own, or made by ``weights`` as they are asked for."""
    weight, layout = selected.module.weight, selected.layout
    assert isinstance(weight, nn.Parameter)
    if weight.device.type != "meta":
        value = weight.detach()
        return lambda first, last: layout.rows(value, first, last).to(torch.float32)
    assert weights is not None
    name, shape = f"{selected.name}.weight".lstrip("."), tuple(weight.shape)
    if getattr(layout, "transposed", False):
        return lambda first, last: layout.rows(weights(name, shape, 0, shape[0]), first, last)
    return lambda first, last: layout.rows(weights(name, shape, first, last), 0, last - first)


def _converted(
    selected: Selected,
    blocks: list[Block],
    run: AnalogRun,
    encoding: InputEncoding | None,
    seen: Seen | None,
    lossy: bool,
    trainable: bool,
    weights: WeightSource | None,
    where: torch.device,
) -> AnalogLayer:
    """Program one layer and make the module that takes its place."""
    found: dict[int, Block] = {block.key: block for block in blocks}

    def keep(key: int, codes: Tensor) -> None:
        if lossy:
            recipe = with_steps(found[key], codes.cpu(), selected.layout, seen, encoding)
            found[key] = found[key].with_recipe(recipe)
        if not trainable:
            run.keep_stored(key, codes)

    programmed = program(selected.layout.form, blocks, _rows_of(selected, weights), keep, selected.name)
    bias = selected.module.bias
    assert bias is None or isinstance(bias, nn.Parameter)
    weight = selected.module.weight if trainable else None
    assert weight is None or isinstance(weight, nn.Parameter)
    return AnalogLayer(
        selected.name,
        selected.layout,
        list(found.values()),
        run,
        Programmed(programmed.scales.to(where), programmed.sums.to(where)),
        bias,
        encoding,
        weight,
    )


def _replace(root: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """``root`` with ``new`` wherever ``old`` was; ``new`` itself if ``old`` is the root."""
    if root is old:
        return new
    for path, module in list(root.named_modules(remove_duplicate=False)):
        if module is old:
            owner, _, leaf = path.rpartition(".")
            setattr(root.get_submodule(owner), leaf, new)
    return root
