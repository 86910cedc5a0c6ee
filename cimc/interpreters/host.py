"""Host operators: one-node ONNX models run through onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.diagnostics import UnsupportedError
from cimc.dialects.base import located
from cimc.dialects.graph import HostOp
from cimc.dialects.mem import HostCallOp
from cimc.dialects.weights import WeightStore


def open_session(model: bytes) -> Any:
    """An onnxruntime session: one thread, no graph optimisation, silent."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def runtime_reason(error: Exception) -> str:
    """The first line of an onnxruntime error, without its codes."""
    text = str(error).strip().split("\n")[0]
    return text.split(" : ", 3)[-1] if text.startswith("[ONNXRuntimeError]") else text


@dataclass
class HostRunner:
    """Runs host operators; a session is opened at an operator's first run and kept."""

    store: WeightStore
    _sessions: dict[str, Any] = field(default_factory=dict[str, Any])

    def run(self, op: HostOp | HostCallOp, inputs: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Results of ``op`` on ``inputs``, in order.

        Raises ``UnsupportedError`` with the operator's place and onnxruntime's reason when it fails.
        """
        key = op.model.key.data
        model = self.store.array(key).tobytes() if key not in self._sessions else b""
        try:
            if model:
                self._sessions[key] = open_session(model)
            session = self._sessions[key]
            names = [value.name for value in session.get_inputs()]
            # onnxruntime gives scalars as numpy's own, and does not take those back.
            given = (np.asarray(value) for value in inputs)
            return session.run(None, dict(zip(names, given, strict=True)))
        except ImportError:  # onnxruntime itself does not load, which says nothing of the operator
            raise
        except Exception as error:  # onnxruntime's exceptions share no base class but Exception
            reason = f"{op.op_type.data} fails on the host: {runtime_reason(error)}"
            raise UnsupportedError(located(op, reason)) from error
