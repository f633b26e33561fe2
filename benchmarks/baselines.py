"""What the engine is compared with: scikit-learn's own pipeline, and skl2onnx's stock export of it."""

from collections.abc import Sequence

from skl2onnx import to_onnx
from skl2onnx.common.data_types import StringTensorType
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.svm import LinearSVC

from services.language.text import normalise
from services.trainer.dataset.examples import Example
from services.trainer.fitting.ngrams import CHARACTER_GRAMS, WORD_GRAMS, WORD_PATTERN


def fit_scikit_learn(examples: Sequence[Example]) -> Pipeline:
    """Return scikit-learn's own pipeline over the engine's n-grams, fitted to the first label of each example."""
    vectorizers = FeatureUnion(
        [
            ("words", TfidfVectorizer(lowercase=False, token_pattern=WORD_PATTERN, ngram_range=WORD_GRAMS)),
            ("characters", TfidfVectorizer(lowercase=False, analyzer="char", ngram_range=CHARACTER_GRAMS, min_df=2)),
        ]
    )
    pipeline = Pipeline([("features", vectorizers), ("linear", LinearSVC())])
    return pipeline.fit([normalise(example.text) for example in examples], [example.labels[0] for example in examples])


def export_with_skl2onnx(examples: Sequence[Example]) -> bytes:
    """Return skl2onnx's stock export of a model of the word n-grams; it cannot export the character n-grams.

    It cannot export LinearSVC either, so the fitted weights are exported as those of a logistic regression.
    """
    words = TfidfVectorizer(lowercase=False, token_pattern=WORD_PATTERN, ngram_range=WORD_GRAMS)
    features = words.fit_transform([normalise(example.text) for example in examples])
    fitted = LinearSVC().fit(features, [example.labels[0] for example in examples])
    linear = LogisticRegression()
    linear.coef_, linear.intercept_, linear.classes_ = fitted.coef_, fitted.intercept_, fitted.classes_
    pipeline = Pipeline([("tfidf", words), ("linear", linear)])
    types = [("text", StringTensorType([None, 1]))]
    graph = to_onnx(pipeline, initial_types=types, options={id(linear): {"zipmap": False}}, target_opset=18)
    return bytes(graph.SerializeToString())
