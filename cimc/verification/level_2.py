"""Level 2 as a whole: its operations in lock step, its products against oracles, its distance to float."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import ModuleOp

from cimc.dialects.graph import ProductOperation, main_function, tensor_names
from cimc.dialects.graph_types import QuantType, quant_of
from cimc.driver import PassResult
from cimc.runtime.numerics.digital import dequantise
from cimc.verification.comparing import place_of
from cimc.verification.digital_oracles import digital_error
from cimc.verification.integer_oracles import product_error
from cimc.verification.lockstep import Run
from cimc.verification.report import Check, TensorError

Array = npt.NDArray[Any]

ORACLE_FRAMES = 2
"""Frames whose products are computed again by onnxruntime's integer operators."""


def lockstep_check(result: PassResult, says: str, exact: bool, runs: Sequence[Run]) -> Check:
    """The worst operation of all frames; errors above 1 break the pass's promise."""
    limit = 0.0 if exact else 1.0
    worst = Check(result.name, "quantised", says, 0, 0.0, "", "equal" if exact else "within")
    count, first = 0, None
    for op in runs[0].errors:
        error = max(run.errors[op] for run in runs)
        count += 1
        if error > worst.worst:
            worst = replace(worst, worst=error, worst_tensor=(tensor_names(op) or ("",))[0])
        if error > limit and first is None:
            first = op, error
    worst = replace(worst, tensors=count)
    if first is None:
        return worst
    op, error = first
    place = place_of(op)
    return replace(
        worst,
        verdict="differs",
        operation=place.operation,
        location=place.location,
        message=f"{op.name} of tensor '{(tensor_names(op) or ('',))[0]}' is off by {error:.4g} of {says}",
    )


def oracle_check(result: PassResult, runs: Sequence[Run]) -> Check:
    """Every product of level 2, fed with our codes, against onnxruntime's integer operators."""
    against = "QLinearConv, QGemm or exact sums, node by node"
    products = [op for op in main_function(result.module).body.block.ops if isinstance(op, ProductOperation)]
    for op in products:
        for run in runs[:ORACLE_FRAMES]:
            codes, found = run.by_value[op.input], run.by_value[op.result]
            error, oracle = product_error(op, codes, found, result.ctx.store)
            if error:
                place = place_of(op)
                message = f"tensor '{tensor_names(op)[0]}' differs by {error:g} codes from {oracle}"
                name = tensor_names(op)[0]
                return Check(
                    result.name, "quantised", against, len(products), error, name, "differs",
                    place.operation, place.location, message,
                )  # fmt: skip
    return Check(result.name, "quantised", against, len(products), 0.0, "", "equal")


def digital_check(result: PassResult, runs: Sequence[Run]) -> Check:
    """Every other operator of level 2 that onnxruntime has, on our operands."""
    against = "onnxruntime, operator by operator"
    count = 0
    for op in main_function(result.module).body.block.ops:
        errors = [
            digital_error(
                op, [run.by_value[v] for v in op.operands], run.by_value[op.results[0]], result.ctx.store
            )
            for run in runs[:ORACLE_FRAMES]
            if op.results
        ]
        known = [error for error in errors if error is not None]
        count += bool(known)
        if any(known):
            place, name = place_of(op), (tensor_names(op) or ("",))[0]
            unit = "codes" if quant_of(op.results[0]) is not None else "times what float sums may"
            message = f"{op.name} of tensor '{name}' differs by {max(known):.4g} {unit} from onnxruntime"
            return Check(
                result.name, "quantised", against, count, max(known), name, "differs",
                place.operation, place.location, message,
            )  # fmt: skip
    return Check(result.name, "quantised", against, count, 0.0, "", "within")


def real_values(module: ModuleOp, integers: Mapping[str, Sequence[Array]]) -> dict[str, list[Array]]:
    """What the codes of level 2 stand for (rule 2); tensors that are real stay."""
    kinds: dict[str, QuantType] = {}
    for op in main_function(module).body.block.ops:
        for name, value in zip(tensor_names(op), op.results, strict=False):
            codes = quant_of(value)
            if codes is not None:
                kinds.setdefault(name, codes)
    return {
        name: [
            dequantise(a, kinds[name].scale, kinds[name].zero_point) if a.dtype.kind in "iu" else a
            for a in arrays
        ]
        if name in kinds
        else list(arrays)
        for name, arrays in integers.items()
    }


def real_holders(module: ModuleOp, runs: Sequence[Run]) -> dict[str, list[list[Array]]]:
    """Every real tensor of level 2 by name, those that are dequantised codes too, each by frame."""
    holders: dict[str, list[list[Array]]] = {}
    for op in main_function(module).body.block.ops:
        for name, value in zip(tensor_names(op), op.results, strict=False):
            if quant_of(value) is None:
                holders.setdefault(name, []).append([run.by_value[value] for run in runs])
    return holders


def same_elements(found: Array, wanted: Array) -> bool:
    """Whether two arrays hold the same elements in the same flat order."""
    return np.array_equal(found.reshape(-1), wanted.reshape(-1))


def is_float(arrays: Sequence[Array]) -> bool:
    """Whether all frames of a tensor are real values."""
    return all(array.dtype.kind == "f" for array in arrays)


def tensor_error(name: str, found: Sequence[Array], wanted: Sequence[Array]) -> TensorError:
    """How far ``found`` is from ``wanted`` over all frames."""
    noise = sum(float(((a.astype(np.float64) - b) ** 2).sum()) for a, b in zip(found, wanted, strict=True))
    power = sum(float((b.astype(np.float64) ** 2).sum()) for b in wanted)
    relative = float(np.sqrt(noise / max(power, 1e-300))) if noise else 0.0
    return TensorError(name, relative, float(-20 * np.log10(max(relative, 1e-15))))


def agreement(found: Sequence[Array], wanted: Sequence[Array]) -> float | None:
    """Share of frames with the same largest element, of a first output with more than one."""
    if found[0].size < 2:
        return None
    hits = [int(a.argmax()) == int(b.argmax()) for a, b in zip(found, wanted, strict=True)]
    return sum(hits) / len(hits)
