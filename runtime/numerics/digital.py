"""The digital unit's library: one definition an operator, used by the interpreters and by the engine.

``docs/numerics.md`` section 0 is the text of these definitions. The engine applies them to rows,
the interpreters to tensors; every function is free of the cut (see the modules for which axis
carries channels or windows).
"""

from __future__ import annotations

from cimc.runtime.numerics.binary import BINARY, binary
from cimc.runtime.numerics.codes import (
    acc_to_float,
    code_dtype,
    code_range,
    dequantise,
    product_scale,
    quantise,
    requantise_acc,
    requantise_codes,
    requantise_multiplier,
)
from cimc.runtime.numerics.elementwise import add_codes, add_float, clip_codes, clip_float, relu_float
from cimc.runtime.numerics.pools import (
    Window,
    average_codes,
    average_pool_float,
    global_average_float,
    max_pool_codes,
    max_pool_float,
    window_counts,
    window_sums,
)
from cimc.runtime.numerics.products import matmul_float
from cimc.runtime.numerics.reductions import halving_tree_sum, softmax
from cimc.runtime.numerics.rowwise import (
    REDUCTIONS,
    layer_norm,
    local_response_norm,
    lookup,
    reduce_row,
    rms_norm,
)
from cimc.runtime.numerics.unary import UNARY_PARAMETERS, unary

__all__ = [
    "BINARY",
    "REDUCTIONS",
    "UNARY_PARAMETERS",
    "Window",
    "acc_to_float",
    "add_codes",
    "add_float",
    "average_codes",
    "average_pool_float",
    "binary",
    "clip_codes",
    "clip_float",
    "code_dtype",
    "code_range",
    "dequantise",
    "global_average_float",
    "halving_tree_sum",
    "layer_norm",
    "local_response_norm",
    "lookup",
    "matmul_float",
    "max_pool_codes",
    "max_pool_float",
    "product_scale",
    "quantise",
    "reduce_row",
    "relu_float",
    "requantise_acc",
    "requantise_codes",
    "requantise_multiplier",
    "rms_norm",
    "softmax",
    "unary",
    "window_counts",
    "window_sums",
]
