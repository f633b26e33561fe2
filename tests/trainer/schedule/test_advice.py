import pytest

from services.trainer.schedule.advice import advise


@pytest.mark.parametrize(
    ("has_champion", "samples", "days", "due", "sentence"),
    [
        (True, 25, 15, False, "Not yet - need 25 more samples or 15 more days"),
        (True, 0, 0, False, "Not yet - need 50 more samples or 30 more days"),
        (True, 49, 29, False, "Not yet - need 1 more samples or 1 more days"),
        (True, 50, 0, True, "Now - 50 new samples since the champion was trained"),
        (True, 0, 30, True, "Now - the champion's data is 30 days old"),
        (False, 0, 0, True, "Now - there is no model yet"),
    ],
)
def test_retraining_is_due_by_new_samples_or_by_age(
    has_champion: bool, samples: int, days: int, due: bool, sentence: str
) -> None:
    advice = advise(has_champion=has_champion, samples=samples, days=days, samples_needed=50, days_allowed=30)
    assert (due, sentence) == (advice.due, advice.next_retrain)
