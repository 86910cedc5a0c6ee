"""Random machines and mapping options: odd sizes, all computing modes and encodings, tight and roomy memories."""

from __future__ import annotations

from functools import cache
from typing import Any

from cimc.backends.registry import resolve_backend
from cimc.backends.schema import Architecture
from cimc.mapping_options import MappingOptions, Override
from tests.property.choices import Choices

LEAST_CORES = 24


@cache
def _isaac() -> Architecture:
    """Read once for all examples."""
    return resolve_backend("isaac").architecture()


def random_machine(choices: Choices) -> Architecture:
    """A legal machine; everything but sizes, modes and encodings is that of ``isaac``."""
    c = choices
    fields: dict[str, Any] = _isaac().model_dump(mode="json")
    mode = c.one_of(("wordline", "wordline", "crossbar", "crossbar", "core"))
    wordline = mode == "wordline"
    sizes = (
        (256, 4), (600, 1), (600, 1), (120, 3), (64, 16), (24, 8), (2, 4), (1, 6), (5, 1), (3, 1), (1, 3), (2, 2),
    )  # fmt: skip
    cores, crossbars = c.one_of(sizes)
    # One context a core in core mode: fewer cores hold few of the random networks.
    cores = max(cores, LEAST_CORES) if mode == "core" else cores
    small = cores * crossbars <= 8
    rows = c.one_of((7, 16, 23, 37) if small else (64, 7, 16, 23, 37, 16, 100, 128, 300))
    parallel = c.one_of((1, 2, 4, 8)) if wordline else c.one_of((rows, rows, rows // 2, 8, 5))
    encoding = c.one_of(("offset", "differential", "twos_complement"))
    subtract = c.one_of(("analog", "digital"))
    analog = encoding == "differential" and subtract == "analog"
    fields |= {"name": "random", "mode": mode}
    fields["chip"] |= {"cores": cores, "allow_writes": small or c.happens(70)}
    fields["core"] |= {
        "crossbars": crossbars,
        "contexts": 1 if mode == "core" else c.one_of((max(crossbars, 4), crossbars, 2)),
        "local_buffer_bytes": c.one_of((65536, 16384, 8192, 4096, 2048)),
    }
    fields["network"] |= {"columns": 8, "rows": -(-cores // 8)}
    fields["crossbar"] |= {
        "rows": rows,
        "columns": c.one_of((45, 128, 37, 61, 45, 96)),
        "parallel_rows": max(1, min(parallel, rows - 1 if wordline else rows)),
        "cell_bits": c.number(1, 4),
        "weight_encoding": encoding,
        "column_flip": not analog and c.happens(40),
        "input_encoding": c.one_of(("offset", "offset", "sign_magnitude", "twos_complement")),
        "dac_bits": c.number(1, 4),
        "adc_bits": c.one_of((12, 8, 6, 10, 4, 9, 12, 12)),
        "adc_signed": analog or c.happens(20),
        "adcs": 4,
        "subtract": subtract,
        "logical_cells": c.happens(10),
    }
    return Architecture.model_validate(fields)


def random_mapping(choices: Choices, products: tuple[str, ...], floating: tuple[str, ...]) -> MappingOptions:
    """Bits, activations, converter steps, pieces of rows; copies of some ``products`` and bits of some ``floating`` on
    their own."""
    c = choices
    bits = c.one_of(((8, 8), (4, 4), (4, 4), (c.number(2, 16), c.number(2, 16)), (5, 7), (16, 16), (8, 16)))
    overrides = [Override(match=name, copies=c.number(1, 4)) for name in products if c.happens(60)] + [
        Override(match=name, weight_bits=c.one_of((4, 2, 8, 6)), activation_bits=c.one_of((4, 8, 6)))
        for name in floating
        if c.happens(15)
    ]
    return MappingOptions(
        weight_bits=bits[0],
        activation_bits=bits[1],
        activations=c.one_of(("all", "all", "auto", "arrays")),
        symmetric=c.happens(25),
        converter=c.one_of(("calibrated", "full")),
        copies=c.one_of((1, 1, 2, 3)),
        overrides=tuple(overrides),
        pieces=c.one_of((None, 1, 2, 3, 7)),
    )
