"""Base class of all our operations: short, located errors; and the definition-order check.

xDSL's ``Operation.emit_error`` prints the whole module into the exception (8 s and 11 MB at
100 000 operations). :class:`CimOperation` answers with one line, and since verifier and pattern
rewriter both go through ``emit_error``, so do both kinds of failure.
"""

from __future__ import annotations

from typing import NoReturn

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, OpResult
from xdsl.irdl import IRDLOperation
from xdsl.utils.exceptions import VerifyException

from cimc.dialects.locations import describe


class CimOperation(IRDLOperation):
    """Every operation of our dialects derives from this class."""

    def emit_error(self, message: str, underlying_error: Exception) -> NoReturn:
        """Raise ``VerifyException`` with one line: ``conv1 (model.onnx:12): graph.conv: what is wrong``."""
        raise VerifyException(located(self, str(underlying_error))) from underlying_error


def located(op: Operation, what: str) -> str:
    """``conv1 (model.onnx:12): graph.conv: what``, as far as the location is known."""
    where = describe(op.location)
    return f"{where}: {op.name}: {what}" if where else f"{op.name}: {what}"


def check_definition_order(module: ModuleOp) -> None:
    """Every operand must be defined before its use; ``module.verify()`` does not look.

    Raises ``VerifyException`` that names the first operation that breaks the rule.
    """
    seen: set[Operation] = set()
    for op in module.walk():
        for index, operand in enumerate(op.operands):
            if isinstance(operand, OpResult) and operand.op not in seen:
                raise VerifyException(located(op, f"operand {index} is used before its definition"))
        seen.add(op)
