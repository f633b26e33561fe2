"""Tells skl2onnx how to write a LinearClassifier as a graph that gathers rows instead of multiplying matrices.

Words are cut at spaces and characters one by one (com.microsoft.Tokenizer), put together to grams (Slice,
StringConcat), looked up (LabelEncoder), and the rows of the weights that belong to them gathered and summed. A gram
outside the vocabulary falls on one more row, of zeros.

Shorter texts of a batch are padded with a line feed, which normalised text never holds: a gram that reaches into the
padding is in no vocabulary. Nor could one that the padding cuts short be: each length has a vocabulary of its own.
"""

from typing import Any

import numpy as np
from onnx import TensorProto
from skl2onnx import update_registered_converter
from skl2onnx.common.data_types import FloatTensorType, StringTensorType

from services.trainer.fitting.linear import SMALLEST_NORM, LinearClassifier
from services.trainer.graphs.nodes import MICROSOFT, ML, GraphNodes

PAD = "\n"
# Tensors on the way that tell why a label was chosen; export.py makes outputs of them.
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
    rows = nodes.node("Concat", _looked_up(nodes, text, model), "rows", axis=1)
    _score(nodes, rows, model, scores)
    nodes.node("Softmax", [scores], probabilities, axis=1)


def _looked_up(nodes: GraphNodes, text: str, model: LinearClassifier) -> list[str]:
    """Return tensors int64 [n, grams of a text] of rows of the weights, one for each length of gram."""
    for name, value in (("zero", 0), ("two", 2), ("three", 3), ("four", 4), ("last", -1), ("before_last", -2)):
        nodes.integers(name, value)
    nodes.integers("end", np.iinfo(np.int64).max)
    space = nodes.string("space", " ")
    words = _tokens(nodes, text, WORD_GRAMS[0], " ")
    first = _slice(nodes, words, "zero", "last", "first_words")
    second = _slice(nodes, words, "one", "end", "second_words")
    pairs = _concat(nodes, _concat(nodes, first, space, "first_words_spaced"), second, WORD_GRAMS[1])
    begun = nodes.node("StringConcat", [space, text], "begun")
    ended = nodes.node("StringConcat", [begun, space], "ended")
    characters = _tokens(nodes, ended, "characters", "")
    begin = _slice(nodes, characters, "zero", "before_last", "first_characters")
    middle = _slice(nodes, characters, "one", "last", "second_characters")
    end = _slice(nodes, characters, "two", "end", "third_characters")
    three = _concat(nodes, _concat(nodes, begin, middle, "character_2_grams"), end, CHARACTER_GRAMS[0])
    four = _longer(nodes, three, characters, "three", CHARACTER_GRAMS[1])
    five = _longer(nodes, four, characters, "four", CHARACTER_GRAMS[2])
    offset = len(model.words_)
    words_at = dict(zip(model.words_, range(offset), strict=True))
    characters_at = dict(zip(model.characters_, range(offset, offset + len(model.characters_)), strict=True))
    vocabularies = (
        {gram: row for gram, row in words_at.items() if " " not in gram},
        {gram: row for gram, row in words_at.items() if " " in gram},
        *({gram: row for gram, row in characters_at.items() if len(gram) == length} for length in (3, 4, 5)),
    )
    unknown = offset + len(model.characters_)
    return [
        _look_up(nodes, grams, vocabulary, unknown)
        for grams, vocabulary in zip((words, pairs, three, four, five), vocabularies, strict=True)
    ]


def _tokens(nodes: GraphNodes, text: str, output: str, separator: str) -> str:
    return nodes.node(
        "Tokenizer", [text], output, MICROSOFT, mark=0, pad_value=PAD, separators=[separator], mincharnum=1
    )


def _slice(nodes: GraphNodes, tokens: str, start: str, end: str, output: str) -> str:
    return nodes.node("Slice", [tokens, start, end, "one"], output)


def _concat(nodes: GraphNodes, left: str, right: str, output: str) -> str:
    return nodes.node("StringConcat", [left, right], output)


def _longer(nodes: GraphNodes, grams: str, characters: str, start: str, output: str) -> str:
    """Add to each gram the character after it."""
    shortened = _slice(nodes, grams, "zero", "last", f"{output}_begin")
    return _concat(nodes, shortened, _slice(nodes, characters, start, "end", f"{output}_end"), output)


def _look_up(nodes: GraphNodes, grams: str, vocabulary: dict[str, int], unknown: int) -> str:
    # An empty table is refused; no text holds NUL.
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
    """Sum the gathered weights, scale, divide by the norm, add the intercepts; calibrated, so that softmax can follow.

    Both sums are over whole numbers, so they are exact and do not depend on the order or on padding: a batch answers
    exactly as single queries do.
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
