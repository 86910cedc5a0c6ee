"""Calibration: data a user gives, and the range of every tensor on it.

Ranges are chosen in float64 and stored as float32, runs in the order of the data: the same data on the
same machine gives the same bytes.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue

from cimc.arrays_io import DAMAGE, first_line, read_arrays, read_npy
from cimc.diagnostics import CimError, UsageError, raise_all
from cimc.dialects.graph import (
    INPUTS,
    AddOp,
    BinaryConstantOp,
    BinaryOp,
    IndexMapOp,
    QuantType,
    ReshapeOp,
    StorageCastOp,
    main_function,
    main_names,
    tensor_names,
)
from cimc.dialects.graph_types import is_float, quant_of, shape_of
from cimc.dialects.weights import WeightStore
from cimc.interpreters.graph import numpy_type, run_graph
from cimc.interpreters.host import HostRunner
from cimc.runtime.numerics import digital

Array = npt.NDArray[Any]

_KEEP_MASKS = (AddOp, BinaryConstantOp, BinaryOp, IndexMapOp, ReshapeOp)
"""Operators behind which a mask is still one."""


class CalibrationWarning(UserWarning):
    """Ranges come from data that says little about the network's real inputs."""


@dataclass(frozen=True)
class Samples:
    """Calibration data: per input name an array with a leading sample dimension, all equally long.

    A sample fills dimension 0 of the model's input; for a model bound to a batch of b, b samples make
    one run.
    """

    arrays: Mapping[str, Array]
    runs: int

    def run(self, index: int, batches: Mapping[str, int]) -> dict[str, Array]:
        """The inputs of run ``index``; ``batches`` is dimension 0 of each input."""
        return {
            name: array[index * batches[name] : (index + 1) * batches[name]]
            for name, array in self.arrays.items()
        }


def load_samples(source: str | Path | Mapping[str, Array], module: ModuleOp) -> Samples:
    """Calibration data for the inputs of ``module``.

    ``source``: a mapping or an ``.npz`` file from input name to an array with a leading sample
    dimension, or a folder of ``.npy``: ``<folder>/<input name>/*.npy``, or ``<folder>/*.npy`` for a model
    of one input, each file one sample or several along dimension 0, in order of file names.
    Raises UsageError, all problems together: files that cannot be read, names, shapes, element types,
    numbers that are not finite, and sample counts that do not agree or do not fill a batch.
    """
    if isinstance(source, Mapping):
        return _checked(source, module, "calibration data")
    path = Path(source)
    if path.is_dir():
        return _checked(_read_folder(path, module), module, path.name)
    return _checked(read_arrays(path), module, path.name)


def random_samples(module: ModuleOp, runs: int = 8, seed: int = 0) -> Samples:
    """``runs`` runs of standard normal numbers, with a warning: ranges will not fit the real inputs.

    Integers that are read as codes hold the codes of such numbers, others 0 and 1.
    """
    warnings.warn(
        "no calibration data given: ranges come from random numbers and accuracy will suffer; "
        "give an .npz or a folder of .npy with --calibration",
        CalibrationWarning,
        stacklevel=2,
    )
    generator = np.random.default_rng(seed)
    arrays: dict[str, Array] = {}
    for name, argument in _inputs(module).items():
        shape = (runs * shape_of(argument)[0], *shape_of(argument)[1:])
        wanted = numpy_type(argument.type)
        floating = wanted is not None and wanted.kind == "f"
        codes = _codes_of(argument)
        if codes is not None:
            ends = codes.qmin, codes.qmax
            real = generator.standard_normal(shape).astype(np.float32)
            arrays[name] = digital.quantise(real, codes.scale, codes.zero_point, *ends, dtype=codes.dtype)
            continue
        drawn = generator.standard_normal(shape) if floating else generator.integers(0, 2, shape)
        arrays[name] = drawn.astype(wanted)
    return Samples(arrays, runs)


def _codes_of(argument: SSAValue) -> QuantType | None:
    """The codes as which the model first reads an input of integers."""
    casts = (u.operation for u in argument.uses if isinstance(u.operation, StorageCastOp))
    return next((quant_of(cast.result) for cast in casts), None)


@dataclass
class _Extent:
    """The range of one tensor so far."""

    percentile: float
    low: float = np.inf
    high: float = -np.inf
    ends: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])

    masked: bool = False
    """Whether a constant mask puts infinities there: they are no values of the tensor's range."""

    def see(self, values: Array) -> None:
        """Take in one run's values."""
        if self.masked:
            values = np.append(values[np.isfinite(values)], np.float32(0.0))
        if self.percentile == 100.0:
            self.low = min(self.low, float(values.min()))
            self.high = max(self.high, float(values.max()))
            return
        tail = (100.0 - self.percentile) / 2
        low, high = np.percentile(values.astype(np.float64), [tail, 100.0 - tail])
        self.ends.append((float(low), float(high)))

    def range(self) -> npt.NDArray[np.float32]:
        """Least and greatest value as float32; percentiles are the mean over runs."""
        if self.percentile == 100.0:
            return np.array([self.low, self.high], np.float32)
        return np.array(self.ends, np.float64).mean(axis=0).astype(np.float32)


def collect_ranges(
    module: ModuleOp,
    store: WeightStore,
    data: Samples,
    *,
    percentile: float = 100.0,
    tensors: Collection[str] | None = None,
) -> dict[str, npt.NDArray[np.float32]]:
    """``(low, high)`` of every float tensor of a level-1 module over ``data``, by tensor name.

    ``tensors``: only these, which a quantised model does not bring its own codes for.
    ``percentile`` (above 50, at most 100): the share of each run's values kept inside, in percent, the
    rest cut off evenly at both ends and the ends averaged over runs; 100 is the least and the greatest value.
    Raises UsageError for a percentile out of range and for tensors that become infinite or NaN, by name.
    """
    if not 50.0 < percentile <= 100.0:
        raise UsageError(f"percentile lies above 50 and is at most 100, not {percentile}")
    names = [name for name in float_tensors(module) if tensors is None or name in tensors]
    masked = _masked_tensors(module, store)
    extents = {name: _Extent(percentile, masked=name in masked) for name in names}
    batches = {name: shape_of(argument)[0] for name, argument in _inputs(module).items()}
    host = HostRunner(store)
    for index in range(data.runs):
        found = run_graph(module, store, data.run(index, batches), taps=names, host=host)
        for name, extent in extents.items():
            extent.see(found[name])
    ranges = {name: extent.range() for name, extent in extents.items()}
    infinite = [name for name, ends in ranges.items() if not np.isfinite(ends).all()]
    if infinite:
        raise _overflow(infinite, ranges[infinite[0]])
    return ranges


def _masked_tensors(module: ModuleOp, store: WeightStore) -> set[str]:
    """Names of tensors that hold infinities because a constant does: masks before a softmax."""
    found: set[str] = set()
    values: set[SSAValue] = set()
    for op in main_function(module).body.block.ops:
        own = isinstance(op, BinaryConstantOp) and not np.isfinite(store.array(op.constant.key.data)).all()
        if own or (isinstance(op, _KEEP_MASKS) and values.intersection(op.operands)):
            values.update(op.results)
            found.update(tensor_names(op))
    return found


def float_tensors(module: ModuleOp) -> tuple[str, ...]:
    """Names of the float32 inputs and results of ``@main``, in order of definition, each once."""
    named = [(name, argument) for name, argument in _inputs(module).items()]
    for op in main_function(module).body.block.ops:
        named.extend(zip(tensor_names(op), op.results, strict=False))
    return tuple(dict.fromkeys(name for name, value in named if is_float(value)))


def _overflow(names: list[str], ends: npt.NDArray[np.float32]) -> CimError:
    """What the first of ``names`` did; those after it follow from it."""
    others = f" (and {len(names) - 1} after it)" if len(names) > 1 else ""
    return UsageError(
        f"tensor {names[0]!r}{others} reaches {ends[0]} … {ends[1]} on the calibration data; "
        "its numbers must be finite: check the data's scale and the model's weights"
    )


def _inputs(module: ModuleOp) -> dict[str, Any]:
    return dict(zip(main_names(module, INPUTS), main_function(module).args, strict=True))


def _read_folder(folder: Path, module: ModuleOp) -> dict[str, Array]:
    inputs = _inputs(module)
    if not any(folder.glob("*.npy")):
        return {name: _stacked(folder / name, shape_of(value)) for name, value in inputs.items()}
    if len(inputs) > 1:
        raise UsageError(
            f"the model has {len(inputs)} inputs; put the .npy files into one folder each: "
            f"{', '.join(inputs)}",
            where=folder.name,
        )
    return {name: _stacked(folder, shape_of(value)) for name, value in inputs.items()}


def _stacked(folder: Path, shape: tuple[int, ...]) -> Array:
    """All samples of a folder, along dimension 0, in order of file names."""
    files = sorted(folder.glob("*.npy"), key=lambda file: file.name)
    if not files:
        raise UsageError("holds no .npy files", where=folder.name)
    parts = [_read_sample(file) for file in files]
    parts = [part if part.ndim == len(shape) else part[np.newaxis] for part in parts]
    for file, part in zip(files, parts, strict=True):
        if part.dtype.kind not in "biufc":
            raise UsageError(f"holds elements {part.dtype}, which are no numbers", where=file.name)
        if part.shape[1:] != parts[0].shape[1:]:
            shapes = f"{part.shape}, and {files[0].name} one of {parts[0].shape}"
            raise UsageError(f"holds samples of shape {shapes}; all must agree", where=file.name)
    return np.concatenate(parts)


def _read_sample(file: Path) -> Array:
    try:
        return read_npy(file)
    except DAMAGE as error:
        raise UsageError(f"cannot be read as .npy ({first_line(error)})", where=file.name) from error


def _checked(arrays: Mapping[str, Array], module: ModuleOp, where: str) -> Samples:
    inputs = _inputs(module)
    errors: list[CimError] = [
        UsageError(
            f"has no array for input {name!r}; it holds {', '.join(sorted(arrays)) or 'nothing'}", where=where
        )
        for name in inputs
        if name not in arrays
    ]
    errors.extend(
        UsageError(f"holds {name!r}, which is no input; the inputs are {', '.join(inputs)}", where=where)
        for name in arrays
        if name not in inputs
    )
    raise_all(errors)
    converted: dict[str, Array] = {}
    runs: dict[str, int] = {}
    for name, argument in inputs.items():
        array = np.asarray(arrays[name])
        problem = _problem(array, shape_of(argument), numpy_type(argument.type))
        if problem:
            errors.append(UsageError(f"array {name!r} {problem}", where=where))
            continue
        converted[name] = array.astype(numpy_type(argument.type), copy=False)
        runs[name] = len(array) // shape_of(argument)[0]
    raise_all(errors)
    if len(set(runs.values())) != 1:
        counts = ", ".join(f"{name}: {count}" for name, count in runs.items())
        raise UsageError(f"the inputs have different numbers of samples: {counts}", where=where)
    return Samples(converted, next(iter(runs.values())))


def _problem(array: Array, shape: tuple[int, ...], wanted: np.dtype[Any] | None) -> str:
    """What is wrong with an array of samples; empty when nothing is."""
    if array.ndim != len(shape) or array.shape[1:] != shape[1:]:
        expected = ("samples", *shape[1:])
        return f"has shape {array.shape}; give {expected}, samples along dimension 0".replace("'", "")
    if len(array) == 0 or len(array) % shape[0]:
        return f"has {len(array)} samples; the model runs {shape[0]} at a time, give a multiple of that"
    if wanted is None or not np.can_cast(array.dtype, wanted, casting="same_kind"):
        return f"has elements {array.dtype}; the model takes {wanted}"
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return "holds numbers that are not finite"
    return ""
