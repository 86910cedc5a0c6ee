"""One operation of levels 1 and 2, or of a mixture of both between quantise passes, on given operands.

The operation becomes a module of its own and runs on the interpreter of its level, so that what is compared is
what the levels mean, fed with whatever operands the comparison asks for (docs/numerics.md section 0 rule 12).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Operation, Region

from cimc.dialects.graph import AffineOp, ProductOperation, main_module
from cimc.dialects.weights import WeightStore
from cimc.interpreters.graph import run_graph
from cimc.interpreters.host import HostRunner
from cimc.interpreters.quantised import execute_quantised

Array = npt.NDArray[Any]


def run_operation(
    op: Operation, operands: Sequence[Array], store: WeightStore, host: HostRunner
) -> list[Array]:
    """The results of ``op`` on ``operands``, in order. Raises as the interpreters do."""
    block = Block(arg_types=[value.type for value in op.operands])
    copy = op.clone(dict(zip(op.operands, block.args, strict=True)))
    # A value used twice maps to its last argument only; each operand has an argument of its own.
    copy.operands = block.args
    copy.location = op.location
    block.add_ops([copy, ReturnOp(*copy.results)])
    results = [value.type for value in copy.results]
    main = FuncOp("main", ([argument.type for argument in block.args], results), Region(block))
    inputs = [f"in{i}" for i in range(len(operands))]
    outputs = [f"out{i}" for i in range(len(results))]
    module = main_module(main, inputs, outputs)
    given = dict(zip(inputs, operands, strict=True))
    real_product = isinstance(op, ProductOperation) and not op.is_quantised
    if real_product or isinstance(op, AffineOp):
        found = run_graph(module, store, given, host=host)
    else:
        found = execute_quantised(module, store, given, host=host).outputs
    return [found[name] for name in outputs]
