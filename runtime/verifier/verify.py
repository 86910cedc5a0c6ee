"""All checks of a program in their order; each stage can rely on those before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from cimc.diagnostics import raise_all
from cimc.runtime.program.tables import Program
from cimc.runtime.verifier.addresses_check import check_addresses
from cimc.runtime.verifier.arrays_check import check_arrays, read_codings
from cimc.runtime.verifier.canonical_check import check_canonical
from cimc.runtime.verifier.code import decode
from cimc.runtime.verifier.fields_check import check_fields
from cimc.runtime.verifier.findings import Finding, merged
from cimc.runtime.verifier.flow_check import check_flow
from cimc.runtime.verifier.operands import Tables, touched
from cimc.runtime.verifier.placement_check import check_placement
from cimc.runtime.verifier.reuse_check import check_reuse
from cimc.runtime.verifier.routes_check import check_routes
from cimc.runtime.verifier.sums_check import check_sums
from cimc.runtime.verifier.tables_check import Machine, check_tables
from cimc.runtime.verifier.written_check import check_written

IMAGES = 2
"""Images of the abstract run: the second begins in the state the first leaves behind."""


def verify_program(
    program: Program,
    *,
    weights_shapes: Mapping[str, tuple[int, int]] | None = None,
    weights: Mapping[str, npt.NDArray[Any]] | None = None,
    images: int = IMAGES,
) -> list[Finding]:
    """Everything that is wrong with ``program``, found without running it on data.

    ``weights_shapes``: (K, N) of the tensors of the weight image, to check that all of it is used.
    ``weights``: the tensors themselves (integers, (K, N)): for the exact bound of sums in place of the widest
    the coding allows, and to see that the cells can hold them; gives the shapes too.
    ``images``: images of the run on row counts, at least 2.
    An empty list: the program runs to its end with any input (``docs/isa.md``, "What the verifier checks").
    """
    if images < 2:
        raise ValueError(f"the abstract run needs at least 2 images, given {images}")
    found = check_tables(program)
    if found:
        return merged(found)
    decoded = decode(program, images)
    if decoded.findings:
        return merged(decoded.findings)
    tables = Tables.of(program)
    check_fields(decoded, tables)
    if decoded.findings:
        return merged(decoded.findings)
    if weights_shapes is None and weights is not None:
        weights_shapes = {name: (array.shape[0], array.shape[1]) for name, array in weights.items()}
    machine = Machine.of(program.machine)
    codings = read_codings(decoded)
    decoded.findings.extend(check_canonical(program))
    check_placement(decoded, tables, machine)
    check_arrays(decoded, machine, codings, weights_shapes, weights)
    operands = touched(decoded, tables)
    check_addresses(decoded, tables, machine, operands)
    check_routes(decoded, tables)
    if decoded.findings:
        return merged(decoded.findings)
    check_written(decoded, tables, operands)
    check_sums(decoded, tables, codings, weights)
    check_flow(decoded, tables)
    check_reuse(decoded)
    return merged(decoded.findings)


def check_program(
    program: Program,
    *,
    weights_shapes: Mapping[str, tuple[int, int]] | None = None,
    weights: Mapping[str, npt.NDArray[Any]] | None = None,
) -> None:
    """Raise all findings of :func:`verify_program` together, as errors of exit code 1."""
    findings = verify_program(program, weights_shapes=weights_shapes, weights=weights)
    raise_all([finding.error() for finding in findings])
