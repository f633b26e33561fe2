"""Exports a fitted model to ONNX with skl2onnx: one graph for the linear stage, one for the head.

A third, small file explains answers: it adds outputs to the linear graph. Serialised protocol buffers merge when they
are concatenated, so serving appends it to the linear graph when somebody asks for an explanation; other queries run
the linear graph alone.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType

from services.language.names import LABELS_METADATA
from services.trainer.fitting.fit import FittedModel
from services.trainer.fitting.head import HeadClassifier
from services.trainer.fitting.linear import LinearClassifier
from services.trainer.graphs import head_graph, linear_graph

INPUT_NAME = "text"
INPUT_TYPE = "tensor(string)"
OUTPUT_NAME = "probabilities"
SCORES_NAME = "scores"
OUTPUT_TYPE = "tensor(float)"
HEAD_INPUT_NAME = "features"
OPSETS = {"": 20, "ai.onnx.ml": 3, "com.microsoft": 1}

linear_graph.register()
head_graph.register()


@dataclass(frozen=True)
class Graphs:
    """Serialised graphs of a version.

    Attributes:
        linear: string [n, 1] of normalised text -> float32 [n, n_labels] probabilities and [n, n_labels] scores.
        explanation: to be appended to `linear`. It adds the outputs `word_grams`, string [n, n_grams], and
            `word_contributions`, float32 [n, n_grams, n_labels], and the same for characters. All contributions of a
            text to a label sum to its score minus the intercept.
        head: float32 [n, columns + n_labels] of embedding and scores -> float32 [n, n_labels]; None without one.

    """

    linear: bytes
    explanation: bytes
    head: bytes | None

    @property
    def size_bytes(self) -> int:
        """Size of all graphs together."""
        return len(self.linear) + len(self.explanation) + len(self.head or b"")


def export_graphs(model: FittedModel) -> Graphs:
    """Return the graphs of a model. Their metadata holds the labels, so that a graph cannot be served with others."""
    return Graphs(
        linear=_export_linear(model.linear, model.labels),
        explanation=export_explanation(),
        head=_export_head(model.head, model.labels) if model.head is not None else None,
    )


def export_explanation() -> bytes:
    """Return the nodes and outputs that explain the answers of a linear graph, to be appended to it."""
    names = linear_graph
    nodes = [
        helper.make_node("Unsqueeze", [names.GRAM_SCALES_FLAT, "two"], ["explain_scales"], name="explain_scales"),
        helper.make_node("Mul", [names.GRAM_WEIGHTS, "explain_scales"], ["explain_sums"], name="explain_sums"),
        helper.make_node("Unsqueeze", [names.NORM, "two"], ["explain_norm"], name="explain_norm"),
        helper.make_node("Div", ["explain_sums", "explain_norm"], ["contributions"], name="explain_contributions"),
        *_cut_out("word", names.WORD_GRAMS, "zero", "word_grams_end"),
        *_cut_out("character", names.CHARACTER_GRAMS, "word_grams_end", "end"),
    ]
    outputs = [
        helper.make_tensor_value_info(f"{kind}_{what}", data_type, shape)
        for kind in ("word", "character")
        for what, data_type, shape in (
            ("grams", TensorProto.STRING, [None, None]),
            ("contributions", TensorProto.FLOAT, [None, None, None]),
        )
    ]
    return bytes(onnx.ModelProto(graph=onnx.GraphProto(node=nodes, output=outputs)).SerializeToString())


def _cut_out(kind: str, tensors: Sequence[str], start: str, end: str) -> list[onnx.NodeProto]:
    """Return the nodes that join all grams of a kind and slice their contributions out of those of all grams."""
    joined = helper.make_node("Concat", list(tensors), [f"{kind}_grams"], name=f"explain_{kind}_grams", axis=1)
    if kind == "character":
        cut = ["contributions", start, end, "one"]
        return [joined, helper.make_node("Slice", cut, ["character_contributions"], name="explain_characters")]
    length = [
        helper.make_node("Shape", ["word_grams"], ["word_grams_end"], name="explain_words_end", start=1, end=2),
        helper.make_node("Slice", ["contributions", start, end, "one"], ["word_contributions"], name="explain_words"),
    ]
    return [joined, *length]


def _export_linear(model: LinearClassifier, labels: tuple[str, ...]) -> bytes:
    graph = to_onnx(model, initial_types=[(INPUT_NAME, StringTensorType([None, 1]))], target_opset=OPSETS)
    return _serialise(graph, labels)


def _export_head(model: HeadClassifier, labels: tuple[str, ...]) -> bytes:
    columns = model.weights_.shape[0] + len(labels)
    graph = to_onnx(model, initial_types=[(HEAD_INPUT_NAME, FloatTensorType([None, columns]))], target_opset=OPSETS)
    return _serialise(graph, labels)


def _serialise(graph: onnx.ModelProto, labels: tuple[str, ...]) -> bytes:
    # skl2onnx keeps operator sets in a Python set, whose order differs from process to process.
    versions = sorted(graph.opset_import, key=lambda opset: opset.domain)
    del graph.opset_import[:]
    graph.opset_import.extend(versions)
    entry = graph.metadata_props.add()
    entry.key, entry.value = LABELS_METADATA, json.dumps(labels)
    return bytes(graph.SerializeToString())
