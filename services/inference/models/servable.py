"""A version in memory, ready to answer. It is frozen: a reload makes a new one and never changes the old one."""

from dataclasses import dataclass
from datetime import datetime

from services.inference.classifiers.cascade import Stage
from services.inference.classifiers.explanation import Explainer


@dataclass(frozen=True)
class Servable:
    """One version in memory.

    Attributes:
        version: number of the version; 0 for the servable without a model, which has only the keyword stage.
        generation: generation of the champion alias that it was loaded for.
        stages: the stages of the cascade, in the order in which they are asked.
        label_count: number of labels.
        min_confidence: abstain threshold of the last model stage, in [0, 1].
        explainer: explains its answers; None without a model.
        transformer_missing: why the transformer stage of the version cannot serve; empty when nothing is missing.
        loaded_at: when it began to serve, in UTC; None without a model.

    """

    version: int
    generation: int
    stages: tuple[Stage, ...]
    label_count: int
    min_confidence: float
    loaded_at: datetime | None
    explainer: Explainer | None = None
    transformer_missing: str = ""
