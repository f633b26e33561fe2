"""What one training run works on: its files and the registry it writes to. Travels to the child process as JSON."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from services.trainer.registry.registry import ModelRegistry


@dataclass(frozen=True)
class Plan:
    """Files of a run. A held-out or golden file that is not there is taken as empty; so is an empty name of any file.

    Attributes:
        seed_files: files of examples that ship with the project or were named by the caller; a folder stands for its
            JSON-lines and CSV files.
        held_out_file: examples for evaluation only.
        golden_file: queries that must always be answered right.
        taxonomy_file: labels that exist; without it, those that the examples carry.
        feedback_file: what people said.
        suspects_file: where examples go that a person should look at.
        snapshot_id: learn from this snapshot instead of collecting; the files above are not read then.
        encoder_dir: the sentence encoder's folder; without it the version has no transformer stage.

    """

    models_dir: str
    model: str
    keep_versions: int
    seed_files: tuple[str, ...]
    held_out_file: str = ""
    golden_file: str = ""
    taxonomy_file: str = ""
    feedback_file: str = ""
    encoder_dir: str = ""
    suspects_file: str = ""
    snapshot_id: str = ""
    run_id: str = ""

    @property
    def registry(self) -> ModelRegistry:
        """The registry of the run's model."""
        return ModelRegistry(Path(self.models_dir), self.model, self.keep_versions)

    def to_line(self) -> bytes:
        """Return the plan as one line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: str) -> "Plan":
        """Return the plan that `to_line` wrote."""
        return cls(**json.loads(line))
