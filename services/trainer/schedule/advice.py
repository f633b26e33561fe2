"""Says whether retraining is due. A pure function of counts and dates, with the sentences operators read."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Advice:
    """Whether a retrain is due, why or when, and sentences for the operator."""

    due: bool
    next_retrain: str
    recommendations: tuple[str, ...]


RUN_IT = "Consider running retraining pipeline"
TRAIN_FIRST = "Train a first model"
COLLECT = "Collect more feedback"


def advise(*, has_champion: bool, samples: int, days: int, samples_needed: int, days_allowed: int) -> Advice:
    """Judge by the new labelled samples and the whole days since the champion's data was collected."""
    if not has_champion:
        return Advice(True, "Now - there is no model yet", (TRAIN_FIRST,))
    if samples >= samples_needed:
        return Advice(True, f"Now - {samples} new samples since the champion was trained", (RUN_IT,))
    if days >= days_allowed:
        return Advice(True, f"Now - the champion's data is {days} days old", (RUN_IT,))
    missing, remaining = samples_needed - samples, days_allowed - days
    waiting = f"Not yet - need {missing} more samples or {remaining} more days"
    return Advice(False, waiting, (COLLECT,) if samples == 0 else (RUN_IT,))
