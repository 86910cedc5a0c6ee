"""Extents of the graph's inputs: those in the model, bound where they are open by ``--shape``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx import TypeProto, ValueInfoProto

from cimc.diagnostics import CimError, UnsupportedError, UsageError, raise_all
from cimc.frontend.onnx.types import ELEMENTS, element_name

InputTypes = dict[str, tuple[int, tuple[int, ...]]]
"""Input name to ONNX element type and extents."""


def bind_inputs(
    inputs: Sequence[ValueInfoProto], shapes: Mapping[str, tuple[int, ...]] | None, file: str
) -> InputTypes:
    """Element type and extents of every input.

    A dimension with a name (``batch``) that one binding fixes is fixed for every input that uses the
    name. Raises ``UsageError`` for open dimensions, unknown names, wrong ranks, extents below 1 and
    contradictions, and ``UnsupportedError`` for inputs that are not numeric tensors; all together.
    """
    given = dict(shapes or {})
    errors: list[CimError] = []
    known = [value.name for value in inputs]
    for name in given:
        if name not in known:
            errors.append(
                UsageError(
                    f"--shape names {name!r}, but the inputs are {', '.join(known) or 'none'}", where=file
                )
            )
    usable: list[ValueInfoProto] = []
    for value in inputs:
        problem = _type_problem(value.type)
        if problem is None:
            usable.append(value)
        else:
            errors.append(UnsupportedError(f"input {value.name!r} is {problem}", where=file))
    symbols = _bind_symbols(usable, given, errors, file)
    result: InputTypes = {}
    for value in usable:
        shape = _extents(value, given.get(value.name), symbols, errors, file)
        if shape is not None:
            result[value.name] = (value.type.tensor_type.elem_type, shape)
    raise_all(errors)
    return result


def _type_problem(proto: TypeProto) -> str | None:
    if not proto.HasField("tensor_type"):
        return "not a tensor; sequences, maps and optionals have no place on an accelerator"
    if proto.tensor_type.elem_type not in ELEMENTS:
        return f"a tensor of {element_name(proto.tensor_type.elem_type)}, which has no numeric type here"
    return None


def _bind_symbols(
    inputs: Sequence[ValueInfoProto],
    given: Mapping[str, tuple[int, ...]],
    errors: list[CimError],
    file: str,
) -> dict[str, int]:
    symbols: dict[str, int] = {}
    for value in inputs:
        extents = given.get(value.name)
        dims = value.type.tensor_type.shape.dim
        if extents is None or len(extents) != len(dims):
            continue
        for extent, dim in zip(extents, dims, strict=True):
            if not dim.dim_param or dim.dim_param == "?":
                continue
            if symbols.setdefault(dim.dim_param, extent) != extent:
                errors.append(
                    UsageError(
                        f"dimension {dim.dim_param!r} is bound to {symbols[dim.dim_param]} and to {extent}",
                        where=file,
                    )
                )
    return symbols


def _extents(
    value: ValueInfoProto,
    given: tuple[int, ...] | None,
    symbols: Mapping[str, int],
    errors: list[CimError],
    file: str,
) -> tuple[int, ...] | None:
    name, tensor = value.name, value.type.tensor_type
    if given is not None and min(given, default=1) < 1:
        errors.append(UsageError(f"--shape of {name!r} has an extent below 1: {_commas(given)}", where=file))
        return None
    if not tensor.HasField("shape"):
        if given is None:
            errors.append(
                UsageError(
                    f"input {name!r} has no shape; bind it with --shape {name}=1,3,224,224", where=file
                )
            )
        return given
    # Some exporters write 0 or -1 where they mean an open dimension.
    dims = [d.dim_value if d.dim_value > 0 else d.dim_param or "?" for d in tensor.shape.dim]
    if given is not None:
        return _matching(name, given, dims, errors, file)
    bound = [symbols.get(d, d) if isinstance(d, str) else d for d in dims]
    extents = tuple(d for d in bound if isinstance(d, int))
    if len(extents) < len(bound):
        example = ",".join("1" if isinstance(d, str) else str(d) for d in bound)
        open_dims = ", ".join(f"{axis} ({d!r})" for axis, d in enumerate(bound) if isinstance(d, str))
        errors.append(
            UsageError(
                f"input {name!r} has the open dimension {open_dims}; bind it, for example "
                f"with --shape {name}={example}",
                where=file,
            )
        )
        return None
    return extents


def _matching(
    name: str, given: tuple[int, ...], dims: Sequence[int | str], errors: list[CimError], file: str
) -> tuple[int, ...] | None:
    fits = len(given) == len(dims) and all(
        isinstance(d, str) or d == extent for extent, d in zip(given, dims, strict=True)
    )
    if fits:
        return given
    errors.append(
        UsageError(
            f"--shape {name}={_commas(given)} contradicts the model's shape {_commas(dims)}", where=file
        )
    )
    return None


def _commas(extents: Sequence[int | str]) -> str:
    return ",".join(map(str, extents))
