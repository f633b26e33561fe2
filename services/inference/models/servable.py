"""A loaded version, ready to answer. Frozen: a reload makes a new one and never touches the old."""

from dataclasses import dataclass
from datetime import datetime

from services.inference.classifiers.cascade import Stage
from services.inference.classifiers.explanation import Explainer


@dataclass(frozen=True)
class Servable:
    """One version in memory.

    Attributes:
        version: its number; 0 for the servable without a model, which only has the keyword stage.
        generation: generation of the champion alias it was loaded under.
        stages: the cascade, first stage first.
        label_count: how many labels it can answer.
        min_confidence: abstain threshold of its last model stage.
        explainer: says why it answers as it does; None for the one without a model.
        transformer_missing: why the version's transformer stage is not among the stages; empty when nothing is missing.
        loaded_at: when it was swapped in, UTC; None for the one without a model.

    """

    version: int
    generation: int
    stages: tuple[Stage, ...]
    label_count: int
    min_confidence: float
    loaded_at: datetime | None
    explainer: Explainer | None = None
    transformer_missing: str = ""
