"""The digital unit's library: one definition an operator, used by the interpreters and by the engine.

``docs/numerics.md`` section 0 is the text of these definitions. The engine applies them to rows,
the interpreters to tensors; every function is free of the cut (see the modules for which axis
carries channels or windows).
"""

from __future__ import annotations

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
from cimc.runtime.numerics.reductions import halving_tree_sum, softmax

__all__ = [
    "Window",
    "acc_to_float",
    "add_codes",
    "add_float",
    "average_codes",
    "average_pool_float",
    "clip_codes",
    "clip_float",
    "code_dtype",
    "code_range",
    "dequantise",
    "global_average_float",
    "halving_tree_sum",
    "max_pool_codes",
    "max_pool_float",
    "product_scale",
    "quantise",
    "relu_float",
    "requantise_acc",
    "requantise_codes",
    "requantise_multiplier",
    "softmax",
    "window_counts",
    "window_sums",
]
