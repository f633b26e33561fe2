"""Exports a fitted model to ONNX with skl2onnx: one string input, one output with the probabilities."""

import json

from skl2onnx import to_onnx
from skl2onnx.common.data_types import StringTensorType
from skl2onnx.helpers.onnx_helper import select_model_inputs_outputs

from services.trainer.training import FittedModel

INPUT_NAME = "text"
INPUT_TYPE = "tensor(string)"
OUTPUT_NAME = "probabilities"
OUTPUT_TYPE = "tensor(float)"
LABELS_METADATA = "labels"
OPSET = 18


def export_graph(model: FittedModel) -> bytes:
    """Return the serialised graph: string [n, 1] of normalised text -> float32 [n, n_labels].

    The labels travel in the graph's metadata, so that a graph cannot be served under another version's labels.
    """
    classifier = model.pipeline.named_steps["linear"]
    graph = to_onnx(
        model.pipeline,
        initial_types=[(INPUT_NAME, StringTensorType([None, 1]))],
        options={id(classifier): {"zipmap": False}},
        target_opset=OPSET,
    )
    # Selecting one output forgets its shape, which serving checks.
    signature = next(output for output in graph.graph.output if output.name == OUTPUT_NAME)
    graph = select_model_inputs_outputs(graph, OUTPUT_NAME)
    graph.graph.output[0].CopyFrom(signature)
    entry = graph.metadata_props.add()
    entry.key, entry.value = LABELS_METADATA, json.dumps(model.labels)
    return bytes(graph.SerializeToString())
