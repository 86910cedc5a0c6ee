"""Host operators: whole tensors in the global buffer, one onnxruntime session per operator.

onnxruntime is imported when a program with a host operator runs, and not otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.diagnostics import UsageError
from cimc.runtime.functional.fields import Frame
from cimc.runtime.functional.memory import Buffer
from cimc.runtime.functional.problems import BoundsError, ExecutionError
from cimc.runtime.program.rows import Row
from cimc.runtime.program.tables import HostOperator

Loader = Callable[[str], bytes]
"""Gives the bytes of a sub-model by its name in the ``host/`` folder of the artifact."""

_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int16)": "int16",
    "tensor(uint16)": "uint16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
}


class HostSessions:
    """The sub-models of a run, loaded on first use."""

    def __init__(self, loader: Loader | None):
        self._loader = loader
        self._sessions: dict[str, Any] = {}

    def bind(self, frame: Frame, row: Row) -> Callable[[], None]:
        """The action of a ``host`` row. UsageError without a loader, BoundsError for unknown operators."""
        hosts = frame.program.hosts
        if not 0 <= row.imm < len(hosts):
            raise BoundsError(f"host operator {row.imm} is named, the program has {len(hosts)}")
        operator = hosts[row.imm]
        session = self._session(operator)
        sources = [frame.buffers[number] for number in operator.inputs]
        targets = [frame.buffers[number] for number in operator.outputs]
        # Buffers stand in the order of the sub-model's inputs and outputs: its own names are enough.
        feeds = [(value.name, _TYPES.get(value.type)) for value in session.get_inputs()]
        names = [value.name for value in session.get_outputs()]

        def action() -> None:
            feed = {
                name: _tensor(buffer, shape).astype(kind)
                for (name, kind), buffer, shape in zip(feeds, sources, operator.input_shapes, strict=True)
            }
            results = session.run(names, feed)
            for buffer, shape, result in zip(targets, operator.output_shapes, results, strict=True):
                _store(buffer, shape, np.asarray(result), operator)

        return action

    def _session(self, operator: HostOperator) -> Any:
        known = self._sessions.get(operator.model)
        if known is not None:
            return known
        if self._loader is None:
            raise UsageError(
                f"the program has a host operator {operator.op_type} ('{operator.model}'), but the run was "
                "given no way to load its model"
            )
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        # As the interpreters run it: graph optimisation may change the last bit.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(
            self._loader(operator.model), options, providers=["CPUExecutionProvider"]
        )
        self._sessions[operator.model] = session
        return session


def _tensor(buffer: Buffer, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    return buffer.read(0, 0, math.prod(shape)).reshape(shape)


def _store(buffer: Buffer, shape: tuple[int, ...], result: npt.NDArray[Any], operator: HostOperator) -> None:
    if result.shape != shape:
        raise ExecutionError(f"host operator {operator.op_type} gave shape {result.shape}, stated is {shape}")
    stored = result.astype(buffer.data.dtype)
    if not np.array_equal(stored, result, equal_nan=result.dtype.kind == "f"):
        raise ExecutionError(
            f"host operator {operator.op_type} gave {result.dtype} values that {buffer.label} of {stored.dtype} "
            "cannot hold"
        )
    buffer.write(0, 0, stored.size)[:] = stored.reshape(-1)
