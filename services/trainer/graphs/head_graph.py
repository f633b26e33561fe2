"""Tells skl2onnx how to export a HeadClassifier.

Both factors are multiplied into the weights, so blending takes one matrix product: embeddings and linear scores, side
by side, times `[weights * embedding_factor; identity * linear_factor]`. The softmax has a last column for "unknown",
which is dropped after it.
"""

from typing import Any

import numpy as np
from skl2onnx import update_registered_converter
from skl2onnx.common.data_types import FloatTensorType

from services.trainer.fitting.head import HeadClassifier
from services.trainer.graphs.nodes import GraphNodes


def register() -> None:
    """Make `to_onnx` know HeadClassifier."""
    update_registered_converter(
        HeadClassifier, "MoodFoodHeadClassifier", _declare_shape, _convert, parser=_declare_output, overwrite=True
    )


def _declare_output(scope: Any, model: HeadClassifier, inputs: list[Any], custom_parsers: Any = None) -> list[Any]:
    operator = scope.declare_local_operator("MoodFoodHeadClassifier", model)
    operator.inputs = inputs
    operator.outputs.append(scope.declare_local_variable("probabilities", FloatTensorType()))
    return list(operator.outputs)


def _declare_shape(operator: Any) -> None:
    operator.outputs[0].type = FloatTensorType([None, len(operator.raw_operator.intercepts_)])


def _convert(scope: Any, operator: Any, container: Any) -> None:
    model: HeadClassifier = operator.raw_operator
    nodes = GraphNodes(container)
    labels = len(model.intercepts_)
    stacked = np.vstack([model.weights_ * model.embedding_factor_, np.eye(labels) * model.linear_factor_])
    weights = np.hstack([stacked, np.zeros((len(stacked), 1))]).astype(np.float32)
    intercepts = np.append(model.intercepts_ * model.embedding_factor_, model.unknown_score_).astype(np.float32)
    nodes.node("MatMul", [operator.inputs[0].full_name, nodes.array("weights", weights)], "weighted")
    nodes.node("Add", ["weighted", nodes.array("intercepts", intercepts)], "scores")
    nodes.node("Softmax", ["scores"], "probabilities_and_unknown", axis=1)
    zero, last, one = nodes.integers("zero", 0), nodes.integers("last", -1), nodes.integers("one", 1)
    nodes.node("Slice", ["probabilities_and_unknown", zero, last, one], operator.outputs[0].full_name)
