"""Examples that a training run wants a person to look at: a file of SuspectRecords, replaced as a whole by each run."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from moodfood.events.v1.events_pb2 import SuspectRecord

from services.trainer.dataset.examples import Example
from services.trainer.fitting.label_noise import Suspicion
from services.trainer.storage import read_messages, replace_file, to_json

NOISE, CONTRADICTORY = "suspected_noise", "contradictory"


def write_suspects(path: Path, noise: Sequence[Suspicion], contradictory: Sequence[Example]) -> None:
    """Replace what the run before suspected. Raises StorageFailed: the former file is still there."""
    records = [
        *(
            SuspectRecord(
                text=each.example.text,
                labels=each.example.labels,
                reason=NOISE,
                believed=each.believed,
                confidence=each.confidence,
            )
            for each in noise
        ),
        *(SuspectRecord(text=each.text, labels=each.labels, reason=CONTRADICTORY) for each in contradictory),
    ]
    replace_file(path, "".join(f"{to_json(record, indent=None)}\n" for record in records).encode())


def read_suspects(path: Path) -> Iterator[SuspectRecord]:
    """Return every readable record; none if there is no file."""
    return read_messages(path, SuspectRecord)
