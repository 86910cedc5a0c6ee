"""Reading a model: protobuf, versions, external data, local functions.

Weights in external files are read here and nowhere else, and only from below the model's own folder.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper, inliner

from cimc.diagnostics import CimError, UnsupportedError, UsageError, raise_all
from cimc.frontend.onnx.types import ELEMENTS

STANDARD_DOMAINS = ("", "ai.onnx")
"""The two names of the standard operator set."""

MIN_OPSET, MAX_OPSET = 7, 26
"""What onnxruntime 1.31 promises (from 7) and accepts (to 26); measured 2026-11-21."""

MAX_IR_VERSION = 13
"""The newest container version onnxruntime 1.31 loads; onnx 1.23 writes 14 unless told otherwise."""


def read_model(source: str | Path | ModelProto) -> tuple[ModelProto, str]:
    """The checked model with all its data inside, and its file's name for locations.

    Raises ``UsageError`` for files (missing, a folder, external data outside or absent) and
    ``UnsupportedError`` for contents (not ONNX, version, no graph); several problems at once.
    """
    if isinstance(source, ModelProto):
        model, file, folder = ModelProto(), "model", None
        model.CopyFrom(source)
    else:
        path = Path(source)
        model, file, folder = _parse(path), path.name, path.resolve().parent
    raise_all(_version_errors(model, file))
    raise_all(_load_external_data(model, file, folder))
    raise_all(_size_errors(model, file))
    if model.functions:
        model = inliner.inline_local_functions(model)
    return model, file


def _parse(path: Path) -> ModelProto:
    if not path.exists():
        raise UsageError("there is no such file; give the path of an .onnx model", where=str(path))
    if path.is_dir():
        raise UsageError("this is a folder; give the path of an .onnx file", where=str(path))
    model = ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise UnsupportedError(
            "this is not an ONNX model: the protobuf is damaged or cut short", where=path.name
        ) from error
    except OSError as error:
        raise UsageError(f"cannot read the model: {error.strerror}", where=str(path)) from error
    return model


def opset_of(model: ModelProto) -> int:
    """The version of the standard operator set; 0 when the model does not import it."""
    versions = [o.version for o in model.opset_import if o.domain in STANDARD_DOMAINS]
    return max(versions, default=0)


def _version_errors(model: ModelProto, file: str) -> list[CimError]:
    if not model.HasField("graph") or not model.graph.node:
        return [UnsupportedError("the model holds no graph, or a graph without nodes", where=file)]
    errors: list[CimError] = []
    if not model.graph.output:
        errors.append(
            UnsupportedError("the graph has no outputs, so there is nothing to compute", where=file)
        )
    if model.ir_version > MAX_IR_VERSION:
        errors.append(
            UnsupportedError(
                f"IR version {model.ir_version} is newer than {MAX_IR_VERSION}, the newest onnxruntime loads; "
                f"save the model with ir_version={MAX_IR_VERSION} or less",
                where=file,
            )
        )
    opset = opset_of(model)
    if not opset and any(node.domain in STANDARD_DOMAINS for node in model.graph.node):
        errors.append(
            UnsupportedError("the model imports no version of the standard operator set", where=file)
        )
    elif opset and not MIN_OPSET <= opset <= MAX_OPSET:
        errors.append(
            UnsupportedError(
                f"opset {opset} is outside {MIN_OPSET} .. {MAX_OPSET}; "
                "export the model again or use onnx.version_converter",
                where=file,
            )
        )
    return errors


def tensors_of(graph: GraphProto) -> Iterator[TensorProto]:
    """Every stored tensor: initializers and attributes, in sub-graphs too."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from _attribute_tensors(attribute)


def _attribute_tensors(attribute: AttributeProto) -> Iterator[TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    if attribute.HasField("g"):
        yield from tensors_of(attribute.g)
    for graph in attribute.graphs:
        yield from tensors_of(graph)


_TYPED_FIELDS: Mapping[int, str] = MappingProxyType(
    {TensorProto.FLOAT: "float_data", TensorProto.DOUBLE: "double_data", TensorProto.INT64: "int64_data"}
)
"""Element types whose typed field has one entry an element."""


def _size_errors(model: ModelProto, file: str) -> list[CimError]:
    """Tensors that hold fewer or more elements than their shape says."""
    errors: list[CimError] = []
    for tensor in tensors_of(model.graph):
        if tensor.data_type not in TensorProto.DataType.values() or tensor.data_type == TensorProto.UNDEFINED:
            text = f"tensor {tensor.name!r} has element type {tensor.data_type}, which does not exist"
            errors.append(UnsupportedError(text, where=file))
            continue
        if tensor.data_type not in ELEMENTS:
            continue
        count = math.prod(tensor.dims)
        name, unit, found, wanted = f"tensor {tensor.name!r}", "elements", count, count
        if tensor.HasField("raw_data"):
            width = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
            unit, found, wanted = "bytes", len(tensor.raw_data), count * width
        elif tensor.data_type in _TYPED_FIELDS:
            found = len(getattr(tensor, _TYPED_FIELDS[tensor.data_type]))
        if found != wanted or min(tensor.dims, default=0) < 0:
            shape = tuple(tensor.dims)
            text = f"{name} of shape {shape} holds {found} {unit} instead of {wanted}; the file is damaged"
            errors.append(UnsupportedError(text, where=file))
    return errors


def _load_external_data(model: ModelProto, file: str, folder: Path | None) -> list[CimError]:
    errors: list[CimError] = []
    for tensor in tensors_of(model.graph):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        try:
            tensor.raw_data = _external_bytes(tensor, folder)
        except CimError as error:
            errors.append(UsageError(f"tensor {tensor.name!r}: {error}", where=file))
            continue
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]
    return errors


def _external_bytes(tensor: TensorProto, folder: Path | None) -> bytes:
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise UsageError(
            f"its data is in the file {location!r}, and a model in memory has no folder; give the path of the model"
        )
    if not location:
        raise UsageError("its data is external but no file is named")
    path = (folder / location).resolve()
    if not path.is_relative_to(folder):
        raise UsageError(
            f"its data file {location!r} is outside the model's folder; move it next to the model"
        )
    if not path.is_file():
        raise UsageError(f"its data file {location!r} is missing; it belongs next to the model")
    size = path.stat().st_size
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries.get("length", str(size - offset)))
    except ValueError:
        raise UsageError(f"its place in {location!r} is not a number") from None
    if offset < 0 or length < 0 or offset + length > size:
        raise UsageError(f"its bytes {offset} .. {offset + length} are not in {location!r}, which has {size}")
    with path.open("rb") as data:
        data.seek(offset)
        return data.read(length)
