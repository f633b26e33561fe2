"""What a training run needs of the feedback: to read it, and to learn what was erased while the run goes on."""

from collections.abc import Iterator

from services.trainer.database.database import Database
from services.trainer.dataset.examples import Example
from services.trainer.feedback.erasures import Erasures
from services.trainer.feedback.store import FeedbackStore


class RunFeedback:
    """The feedback, as a run reads it. Make it when the run begins. Its methods raise StorageFailed.

    Attributes:
        erased_until: position of the last erasure before the run began. The run sees nothing of what was erased so far.

    """

    def __init__(self, database: Database) -> None:
        self._store = FeedbackStore(database)
        self._erasures = Erasures(database)
        self.erased_until = self._erasures.last()

    def watermark(self) -> int:
        """Return a number that grows with each record. Records above it are new to the next run."""
        return self._store.watermark()

    def newest_first(self) -> Iterator[Example]:
        """Yield what people said, without holding it all. The reader may stop early."""
        return self._store.newest_first()

    def erased_text_keys(self) -> set[str]:
        """Return the keys of the texts that were erased since this object was made. See `text_key`."""
        return set().union(*self._erasures.text_keys_after(self.erased_until))
