"""Lock step: every operation gets the operands a reference run has for it, so that differences do not grow.

Between the passes of ``quantise`` a program mixes real operators, conversions and operators on codes. A value is
known by its tensor's name and what it holds, real numbers or codes of one type; a value the reference does not
have is computed from values it has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import ModuleOp, TensorType
from xdsl.dialects.func import ReturnOp
from xdsl.ir import Operation, SSAValue

from cimc.dialects.graph import INPUTS, DequantizeOp, main_function, main_names, tensor_names
from cimc.dialects.weights import WeightStore
from cimc.interpreters.host import HostRunner
from cimc.verification.single_operation import run_operation

Array = npt.NDArray[Any]

Held: TypeAlias = tuple[str, str]
"""A tensor's name and the element type it is held in."""

Judge: TypeAlias = Callable[[Operation, int, Array, "Array | None", list[Array]], float]
"""Error of result number i of an operation: (operation, i, result, what the reference has, operands)."""


@dataclass
class Run:
    """Values of one frame by name and type, and the errors of the operations in lock step."""

    values: dict[Held, Array] = field(default_factory=dict[Held, Array])
    by_value: dict[SSAValue, Array] = field(default_factory=dict[SSAValue, Array])
    errors: dict[Operation, float] = field(default_factory=dict[Operation, float])


def run_in_lockstep(
    module: ModuleOp,
    store: WeightStore,
    inputs: Mapping[str, Array],
    reference: Mapping[Held, Array],
    judge: Judge,
    host: HostRunner,
    *,
    through_conversions: bool,
) -> Run:
    """Run ``module`` on its own values, and each operation again on the reference's where those differ.

    ``through_conversions``: a dequantised tensor is fed as the reference's real tensor of that name. Errors are
    those of the lock-step results.
    """
    main = main_function(module)
    run = Run()
    names: dict[SSAValue, Held] = {}
    locked: dict[SSAValue, Array] = {}
    for argument, name in zip(main.args, main_names(module, INPUTS), strict=True):
        run.by_value[argument] = locked[argument] = np.asarray(inputs[name])
    for op in main.body.block.ops:
        if isinstance(op, ReturnOp):
            break
        own = [run.by_value[value] for value in op.operands]
        results = run_operation(op, own, store, host)
        fed = [_fed(value, names, reference, locked[value]) for value in op.operands]
        same = all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(own, fed, strict=True))
        again = results if same else run_operation(op, fed, store, host)
        for number, (value, name) in enumerate(zip(op.results, tensor_names(op), strict=True)):
            run.by_value[value], locked[value] = results[number], again[number]
            held = name, _kind(value)
            is_conversion = isinstance(op, DequantizeOp)
            if not is_conversion:
                run.values.setdefault(held, results[number])
            if not is_conversion or through_conversions:
                names[value] = held
            wanted = None if is_conversion else reference.get(held)
            error = judge(op, number, again[number], wanted, fed)
            run.errors[op] = max(error, run.errors.get(op, 0.0))
    return run


def _fed(
    value: SSAValue, names: Mapping[SSAValue, Held], reference: Mapping[Held, Array], computed: Array
) -> Array:
    """What an operation is fed: the reference's value, else what was computed from the reference's values."""
    held = names.get(value)
    found = reference.get(held) if held is not None else None
    return found if found is not None and found.shape == computed.shape else computed


def _kind(value: SSAValue) -> str:
    assert isinstance(value.type, TensorType)
    return str(value.type.get_element_type())
