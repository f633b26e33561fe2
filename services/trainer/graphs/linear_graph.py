"""Tells skl2onnx how to export a LinearClassifier: as a graph that gathers rows instead of multiplying matrices.

The graph splits a text into words and characters (com.microsoft.Tokenizer), joins neighbours to grams (Slice and
StringConcat), looks up the row of each gram (LabelEncoder), gathers these rows of the weights, and sums them. Grams
outside the vocabulary have a row of zeros.

Shorter texts of a batch are padded with line feeds, which normalised texts never contain. Padding adds nothing to a
score: a gram with a line feed is in no vocabulary, and each length of gram has a vocabulary of its own, so that a
shortened gram is not found either.
"""

from typing import Any

import numpy as np
from onnx import TensorProto
from skl2onnx import update_registered_converter
from skl2onnx.common.data_types import FloatTensorType, StringTensorType

from services.trainer.fitting.linear import SMALLEST_NORM, LinearClassifier
from services.trainer.graphs.nodes import MICROSOFT, ML, GraphNodes

PAD = "\n"
# Intermediate tensors that explain an answer; export.py makes outputs of them.
WORD_GRAMS = ("word_1_grams", "word_2_grams")
CHARACTER_GRAMS = ("character_3_grams", "character_4_grams", "character_5_grams")
GRAM_WEIGHTS = "gram_weights"
GRAM_SCALES_FLAT = "gathered_scales"
NORM = "norm"
# Sums of squares over this unit's square stay below 2 ** 63 for texts of 10,000 characters.
SMALLEST_FOLDED_UNIT = 1e-4


def register() -> None:
    """Make `to_onnx` know LinearClassifier."""
    update_registered_converter(
        LinearClassifier, "MoodFoodLinearClassifier", _declare_shapes, _convert, parser=_declare_outputs, overwrite=True
    )


def _declare_outputs(scope: Any, model: LinearClassifier, inputs: list[Any], custom_parsers: Any = None) -> list[Any]:
    operator = scope.declare_local_operator("MoodFoodLinearClassifier", model)
    operator.inputs = inputs
    for name in ("probabilities", "scores"):
        operator.outputs.append(scope.declare_local_variable(name, FloatTensorType()))
    return list(operator.outputs)


def _declare_shapes(operator: Any) -> None:
    if not isinstance(operator.inputs[0].type, StringTensorType):
        raise TypeError("a LinearClassifier takes strings")
    for output in operator.outputs:
        output.type = FloatTensorType([None, len(operator.raw_operator.intercepts_)])


def _convert(scope: Any, operator: Any, container: Any) -> None:
    model: LinearClassifier = operator.raw_operator
    nodes = GraphNodes(container)
    probabilities, scores = (variable.full_name for variable in operator.outputs)
    text = nodes.node("Squeeze", [operator.inputs[0].full_name, nodes.integers("one", 1)], "texts")
    rows = nodes.node("Concat", _look_up_grams(nodes, text, model), "rows", axis=1)
    _score(nodes, rows, model, scores)
    nodes.node("Softmax", [scores], probabilities, axis=1)


def _look_up_grams(nodes: GraphNodes, text: str, model: LinearClassifier) -> list[str]:
    """Add the nodes that find the rows of a text's grams; return a tensor int64 [n, n_grams] for each kind of gram."""
    for name, value in (("zero", 0), ("two", 2), ("three", 3), ("four", 4), ("last", -1), ("before_last", -2)):
        nodes.integers(name, value)
    nodes.integers("end", np.iinfo(np.int64).max)
    space = nodes.string("space", " ")
    grams = (*_cut_words(nodes, text, space), *_cut_characters(nodes, text, space))
    unknown = len(model.words_) + len(model.characters_)
    return [
        _look_up(nodes, of_kind, vocabulary, unknown)
        for of_kind, vocabulary in zip(grams, _vocabularies(model), strict=True)
    ]


def _cut_words(nodes: GraphNodes, text: str, space: str) -> tuple[str, str]:
    """Add the nodes that cut a text into its words and pairs of neighbouring words, strings [n, n_grams]."""
    words = _tokens(nodes, text, WORD_GRAMS[0], " ")
    first = _slice(nodes, words, "zero", "last", "first_words")
    second = _slice(nodes, words, "one", "end", "second_words")
    return words, _concat(nodes, _concat(nodes, first, space, "first_words_spaced"), second, WORD_GRAMS[1])


def _cut_characters(nodes: GraphNodes, text: str, space: str) -> tuple[str, str, str]:
    """Add the nodes that cut a text into 3, 4 and 5 neighbouring characters, strings [n, n_grams]."""
    begun = nodes.node("StringConcat", [space, text], "begun")
    ended = nodes.node("StringConcat", [begun, space], "ended")
    characters = _tokens(nodes, ended, "characters", "")
    begin = _slice(nodes, characters, "zero", "before_last", "first_characters")
    middle = _slice(nodes, characters, "one", "last", "second_characters")
    end = _slice(nodes, characters, "two", "end", "third_characters")
    three = _concat(nodes, _concat(nodes, begin, middle, "character_2_grams"), end, CHARACTER_GRAMS[0])
    four = _lengthen(nodes, three, characters, "three", CHARACTER_GRAMS[1])
    return three, four, _lengthen(nodes, four, characters, "four", CHARACTER_GRAMS[2])


def _vocabularies(model: LinearClassifier) -> tuple[dict[str, int], ...]:
    """Return the row of each gram: of words, pairs of words, and 3, 4 and 5 characters."""
    offset = len(model.words_)
    words = dict(zip(model.words_, range(offset), strict=True))
    characters = dict(zip(model.characters_, range(offset, offset + len(model.characters_)), strict=True))
    return (
        {gram: row for gram, row in words.items() if " " not in gram},
        {gram: row for gram, row in words.items() if " " in gram},
        *({gram: row for gram, row in characters.items() if len(gram) == length} for length in (3, 4, 5)),
    )


def _tokens(nodes: GraphNodes, text: str, output: str, separator: str) -> str:
    return nodes.node(
        "Tokenizer", [text], output, MICROSOFT, mark=0, pad_value=PAD, separators=[separator], mincharnum=1
    )


def _slice(nodes: GraphNodes, tokens: str, start: str, end: str, output: str) -> str:
    return nodes.node("Slice", [tokens, start, end, "one"], output)


def _concat(nodes: GraphNodes, left: str, right: str, output: str) -> str:
    return nodes.node("StringConcat", [left, right], output)


def _lengthen(nodes: GraphNodes, grams: str, characters: str, start: str, output: str) -> str:
    """Add the nodes that append to each gram the character after it."""
    shortened = _slice(nodes, grams, "zero", "last", f"{output}_begin")
    return _concat(nodes, shortened, _slice(nodes, characters, start, "end", f"{output}_end"), output)


def _look_up(nodes: GraphNodes, grams: str, vocabulary: dict[str, int], unknown: int) -> str:
    # LabelEncoder refuses an empty table; no text has a NUL.
    table = vocabulary or {"\0": unknown}
    return nodes.node(
        "LabelEncoder",
        [grams],
        f"{grams}_rows",
        ML,
        keys_strings=[gram.encode() for gram in table],
        values_int64s=list(table.values()),
        default_int64=unknown,
    )


def _score(nodes: GraphNodes, rows: str, model: LinearClassifier, output: str) -> None:
    """Add the nodes that compute calibrated scores from the rows of a text's grams.

    Both sums are over whole numbers, so they are exact, whatever their order and the padding: a batch answers exactly
    as single queries do.
    """
    inverse_temperature = np.float32(model.inverse_temperature_)
    # Dividing the norm by the unit of the weights and the inverse temperature saves a multiplication. The squares must
    # stay whole numbers below 2 ** 63, so of a very small unit only a part goes there, and the rest into the scales.
    unit = float(model.unit_) * float(inverse_temperature)
    folded = max(unit, SMALLEST_FOLDED_UNIT)
    scales = np.append(model.scales_ * np.float32(unit / folded), np.float32(0))
    squares = np.append(np.rint(model.squares_ / folded**2).astype(np.int64), np.int64(0))
    smallest = np.array([SMALLEST_NORM / folded], np.float32)
    nothing = np.zeros((1, model.weights_.shape[1]), np.int8)
    nodes.node("Gather", [nodes.array("weights", np.vstack([model.weights_, nothing])), rows], "gathered_weights")
    nodes.node("Cast", ["gathered_weights"], GRAM_WEIGHTS, to=TensorProto.FLOAT)
    nodes.node("Gather", [nodes.array("scales", scales), rows], GRAM_SCALES_FLAT)
    nodes.node("Unsqueeze", [GRAM_SCALES_FLAT, "one"], "scales_row")
    nodes.node("MatMul", ["scales_row", GRAM_WEIGHTS], "sums_row")
    nodes.node("Squeeze", ["sums_row", "one"], "sums")
    nodes.node("Gather", [nodes.array("squares", squares), rows], "gathered_squares")
    nodes.node("ReduceSum", ["gathered_squares", "one"], "sum_of_squares", keepdims=1)
    nodes.node("Cast", ["sum_of_squares"], "real_sum_of_squares", to=TensorProto.FLOAT)
    nodes.node("Sqrt", ["real_sum_of_squares"], "root")
    nodes.node("Max", ["root", nodes.array("smallest_norm", smallest)], NORM)
    nodes.node("Div", ["sums", NORM], "scaled")
    nodes.node("Add", ["scaled", nodes.array("intercepts", model.intercepts_ * inverse_temperature)], output)
