"""ONNX's own node tests, for every operator that has a converter.

A case counts when onnxruntime runs it. It must then import and agree, or stand in :data:`REFUSED` with
the words of the refusal; the counts of :data:`AGREE` are exact, so neither table can rot unseen.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, numpy_helper

from cimc.diagnostics import CimError
from cimc.dialects.weights import WeightStore
from cimc.frontend.onnx import import_onnx
from cimc.frontend.onnx.importer import CONVERTERS
from cimc.frontend.onnx.source import MAX_IR_VERSION
from cimc.interpreters.graph import run_graph

AT_RUN_TIME = "depend on data of run time"
EMPTY = "has an extent below 1"

REFUSED: dict[str, str] = {
    "test_reduce_mean_default_axes_keepdims_example": EMPTY,
    "test_reduce_mean_default_axes_keepdims_random": EMPTY,
    "test_reshape_allowzero_reordered": EMPTY,
    "test_slice_start_out_of_bounds with constants": "has no elements",
    "test_reshape_allowzero_reordered with constants": EMPTY,
    **dict.fromkeys(
        [
            "test_constant_pad",
            "test_edge_pad",
            "test_reflect_pad",
            "test_reshape_extended_dims",
            "test_reshape_negative_dim",
            "test_reshape_negative_extended_dims",
            "test_reshape_one_dim",
            "test_reshape_reduced_dims",
            "test_reshape_reordered_all_dims",
            "test_reshape_reordered_last_dims",
            "test_reshape_zero_and_negative_dim",
            "test_reshape_zero_dim",
            "test_wrap_pad",
        ],
        AT_RUN_TIME,
    ),
    **dict.fromkeys(
        (
            "test_expand_dim_changed",
            "test_expand_dim_unchanged",
            "test_resize_upsample_scales_nearest",
            "test_resize_downsample_scales_nearest",
            "test_resize_upsample_sizes_nearest",
            "test_resize_downsample_sizes_nearest",
            "test_resize_upsample_scales_linear",
            "test_resize_upsample_scales_linear_align_corners",
            "test_resize_downsample_scales_linear",
            "test_resize_downsample_scales_linear_align_corners",
            "test_resize_upsample_scales_cubic",
            "test_resize_upsample_scales_cubic_align_corners",
            "test_resize_downsample_scales_cubic",
            "test_resize_downsample_scales_cubic_align_corners",
            "test_resize_upsample_sizes_cubic",
            "test_resize_downsample_sizes_cubic",
            "test_resize_upsample_scales_cubic_A_n0p5_exclude_outside",
            "test_resize_downsample_scales_cubic_A_n0p5_exclude_outside",
            "test_resize_upsample_scales_cubic_asymmetric",
            "test_resize_tf_crop_and_resize",
            "test_resize_tf_crop_and_resize_extrapolation_value",
            "test_resize_downsample_sizes_linear_pytorch_half_pixel",
            "test_resize_upsample_sizes_nearest_floor_align_corners",
            "test_resize_upsample_sizes_nearest_round_prefer_ceil_asymmetric",
            "test_resize_upsample_sizes_nearest_ceil_half_pixel",
            "test_resize_downsample_scales_linear_antialias",
            "test_resize_downsample_sizes_linear_antialias",
            "test_resize_downsample_scales_cubic_antialias",
            "test_resize_downsample_sizes_cubic_antialias",
            "test_resize_upsample_scales_nearest_axes_2_3",
            "test_resize_upsample_scales_nearest_axes_3_2",
            "test_resize_upsample_sizes_nearest_axes_2_3",
            "test_resize_upsample_sizes_nearest_axes_3_2",
            "test_resize_tf_crop_and_resize_axes_2_3",
            "test_resize_tf_crop_and_resize_axes_3_2",
            "test_resize_upsample_sizes_nearest_not_larger",
            "test_resize_upsample_sizes_nearest_not_smaller",
            "test_resize_downsample_sizes_nearest_not_larger",
            "test_resize_downsample_sizes_nearest_not_smaller",
            "test_resize_downsample_scales_linear_half_pixel_symmetric",
            "test_resize_upsample_scales_linear_half_pixel_symmetric",
            "test_slice",
            "test_slice_neg",
            "test_slice_start_out_of_bounds",
            "test_slice_end_out_of_bounds",
            "test_slice_default_axes",
            "test_slice_default_steps",
            "test_slice_neg_steps",
            "test_slice_negative_axes",
            "test_tile",
            "test_tile_precomputed",
            "test_upsample_nearest",
        ),
        "depend on data of run time",
    ),
    **dict.fromkeys(
        (
            "test_reduce_max_empty_set",
            "test_reduce_max_empty_set with constants",
            "test_reduce_min_empty_set",
            "test_reduce_min_empty_set with constants",
            "test_reduce_sum_default_axes_keepdims_example",
            "test_reduce_sum_default_axes_keepdims_random",
            "test_reduce_sum_empty_axes_input_noop_example",
            "test_reduce_sum_empty_axes_input_noop",
            "test_reduce_sum_empty_set",
            "test_reduce_sum_empty_set_non_reduced_axis_zero",
            "test_reduce_sum_empty_set with constants",
            "test_reduce_sum_empty_set_non_reduced_axis_zero with constants",
            "test_split_zero_size_splits_opset13",
            "test_split_zero_size_splits_opset18",
            "test_split_zero_size_splits_opset13 with constants",
            "test_split_zero_size_splits_opset18 with constants",
            "test_triu_zero",
            "test_tril_zero",
            "test_triu_zero with constants",
            "test_tril_zero with constants",
        ),
        "has an extent below 1",
    ),
}
"""Case to words of the refusal."""

AGREE: dict[str, tuple[int, int]] = {
    "Abs": (1, 1),
    "Add": (8, 8),
    "Attention": (76, 76),
    "AveragePool": (20, 20),
    "BatchNormalization": (4, 4),
    "Ceil": (2, 2),
    "Clip": (12, 12),
    "Concat": (12, 12),
    "Conv": (6, 6),
    "ConvTranspose": (11, 11),
    "Cos": (2, 2),
    "Div": (10, 10),
    "Dropout": (12, 12),
    "Elu": (3, 3),
    "Erf": (1, 1),
    "Exp": (2, 2),
    "Expand": (0, 2),
    "Flatten": (9, 9),
    "Floor": (2, 2),
    "Gather": (4, 4),
    "GatherElements": (3, 3),
    "GatherND": (3, 3),
    "Gelu": (4, 4),
    "Gemm": (11, 11),
    "GlobalAveragePool": (2, 2),
    "GlobalMaxPool": (2, 2),
    "HardSigmoid": (3, 3),
    "HardSwish": (1, 1),
    "Identity": (3, 3),
    "IsNaN": (2, 2),
    "LRN": (2, 2),
    "LayerNormalization": (19, 19),
    "LeakyRelu": (3, 3),
    "Log": (2, 2),
    "MatMul": (7, 7),
    "Max": (12, 12),
    "MaxPool": (19, 19),
    "Min": (12, 12),
    "Mul": (9, 9),
    "Neg": (2, 2),
    "PRelu": (2, 2),
    "Pad": (2, 6),
    "Pow": (10, 10),
    "RMSNormalization": (19, 19),
    "Reciprocal": (2, 2),
    "ReduceMax": (9, 9),
    "ReduceMean": (6, 8),
    "ReduceMin": (9, 9),
    "ReduceSum": (6, 10),
    "Relu": (1, 1),
    "Reshape": (0, 9),
    "Resize": (0, 39),
    "Round": (1, 1),
    "Sigmoid": (2, 2),
    "Sign": (1, 1),
    "Sin": (2, 2),
    "Slice": (0, 7),
    "Softmax": (7, 7),
    "Softplus": (2, 2),
    "Split": (14, 14),
    "Sqrt": (2, 2),
    "Squeeze": (2, 2),
    "Sub": (9, 9),
    "Sum": (3, 3),
    "Tanh": (2, 2),
    "Tile": (0, 2),
    "Transpose": (7, 7),
    "Trilu": (16, 16),
    "Unsqueeze": (7, 7),
    "Upsample": (0, 1),
    "Where": (2, 2),
}
"""Operator to number of cases that agree: inputs as they are, and all but the first made initializers."""


@cache
def node_cases() -> dict[str, list[Any]]:
    """The cases of onnx by operator."""
    from onnx.backend.test.case.node import collect_testcases

    found: dict[str, list[Any]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    for case in cases:
        if case.model is not None and len(case.model.graph.node) == 1:
            found.setdefault(case.model.graph.node[0].op_type, []).append(case)
    return found


def with_constants(model: ModelProto, inputs: dict[str, Any]) -> tuple[ModelProto, dict[str, Any]]:
    """The same model with every input but the first stored inside, as exporters write weights and axes."""
    copy = ModelProto()
    copy.CopyFrom(model)
    first = copy.graph.input[0].name
    for value in list(copy.graph.input)[1:]:
        copy.graph.initializer.append(numpy_helper.from_array(inputs[value.name], value.name))
        copy.graph.input.remove(value)
    return copy, {first: inputs[first]}


def reference(model: ModelProto, inputs: dict[str, Any]) -> list[Any] | None:
    """onnxruntime's outputs; ``None`` when it does not run the model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        return list(session.run(None, inputs))
    except Exception:  # onnxruntime's exceptions share no base class but Exception
        return None


def refusal(model: ModelProto, inputs: dict[str, Any], wanted: list[Any]) -> str:
    """The words of the refusal; empty when the outputs agree."""
    store = WeightStore()
    try:
        module = import_onnx(model, shapes={k: v.shape for k, v in inputs.items()}, store=store)
        found = run_graph(module, store, inputs)
    except CimError as error:
        return str(error)
    for value, array in zip(model.graph.output, wanted, strict=True):
        np.testing.assert_allclose(found[value.name], array, rtol=1e-5, atol=1e-6, err_msg=value.name)
    return ""


def tally(operator: str, *, constants: bool) -> tuple[int, dict[str, str]]:
    """How many cases agree, and the refusals by case."""
    agreed = 0
    refused: dict[str, str] = {}
    for case in node_cases().get(operator, []):
        model = case.model
        model.ir_version = min(model.ir_version, MAX_IR_VERSION)
        given = case.data_sets[0][0]
        inputs = {v.name: np.asarray(a) for v, a in zip(model.graph.input, given, strict=True)}
        if any(array.dtype == object for array in inputs.values()):
            continue  # sequences and optional values
        if constants:
            model, inputs = with_constants(model, inputs)
        wanted = reference(model, inputs)
        if wanted is None:
            continue
        words = refusal(model, inputs, wanted)
        agreed += not words
        if words:
            refused[f"{case.name}{' with constants' if constants else ''}"] = words
    return agreed, refused


def test_every_converter_has_cases() -> None:
    """Three have none that onnxruntime 1.31 runs, as onnx 1.23 writes them."""
    assert set(CONVERTERS) - set(AGREE) == {"Cast", "DepthToSpace", "SpaceToDepth"}


@pytest.mark.parametrize("operator", sorted(AGREE))
def test_node_cases(operator: str) -> None:
    """Every case agrees with onnxruntime or is refused in the words expected, and there are this many."""
    as_given, refused = tally(operator, constants=False)
    stored, more = tally(operator, constants=True)
    refused |= more
    assert (as_given, stored) == AGREE[operator]
    for name, words in refused.items():
        assert name in REFUSED, words
        assert REFUSED[name] in words
