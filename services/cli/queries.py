"""`moodfood classify`: ask the running inference service."""

from typing import Annotated

import typer
from moodfood.inference.v1 import inference_pb2

from services.cli.arguments import Json
from services.cli.connection import INFERENCE, reach
from services.cli.output import enum_word, plain, print_json, print_line, print_table


def classify(
    texts: Annotated[list[str], typer.Argument(help="What somebody says about how they feel.")],
    top_k: Annotated[int, typer.Option("--top-k", min=1, max=100, help="At most so many labels for a text.")] = 5,
    explain: Annotated[bool, typer.Option("--explain", help="Show which words led to each answer.")] = False,
    as_json: Json = False,
) -> None:
    """Ask the running inference service for the labels of one text or several."""
    with reach(INFERENCE) as inference:
        if explain:
            requests = [inference_pb2.ClassifyRequest(text=text, top_k=top_k, explain=True) for text in texts]
            answers = [inference.Classify(request).classification for request in requests]
            answer = inference_pb2.BatchClassifyResponse(classifications=answers)
        else:
            answer = inference.BatchClassify(inference_pb2.BatchClassifyRequest(texts=texts, top_k=top_k))
    if as_json:
        print_json(plain(answer))
        return
    for text, classification in zip(texts, answer.classifications, strict=True):
        stage = enum_word(inference_pb2.Stage, classification.stage)
        intents = [(intent.label, intent.confidence) for intent in classification.intents]
        print_table((text, f"{stage}, version {classification.model_version}"), intents)
        if explain:
            _print_explanation(classification)


def _print_explanation(answer: inference_pb2.Classification) -> None:
    """Print why stages passed the text on, and the words and n-grams that led to the best label."""
    for passed in answer.passed:
        print_line(f"{enum_word(inference_pb2.Stage, passed.stage)} passed: {passed.reason}")
    if not answer.HasField("explanation"):
        print_line("no model has words to explain this answer by")
        return
    print_line(answer.explanation.summary)
    print_table(
        ("gram", "kind", "weight"),
        [
            (repr(gram.gram), enum_word(inference_pb2.GramKind, gram.kind), gram.weight)
            for gram in answer.explanation.grams
        ],
    )
