"""The plan of one training run: the files it reads and the registry it writes to. The child process gets it as JSON."""

import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from services.trainer.database.database import DATABASE_FILE, Database, file_url
from services.trainer.registry.registry import ModelRegistry


@dataclass(frozen=True)
class Plan:
    """The files of a run. An empty name means that there is no such file. The hold-out and golden files may be missing.

    Attributes:
        models_dir: the folder of all models; with a URL, that of their local copies.
        models_url: address of the models in an object store; empty for the folder.
        model: name of the model.
        keep_versions: how many of the newest versions the registry keeps.
        seed_files: files of examples; a folder means all its JSON-lines and CSV files.
        held_out_file: examples for the hold-out; no model is ever fitted to them.
        golden_file: queries that must always be answered correctly.
        taxonomy_file: the labels that exist; without it, they are the labels of the examples.
        with_feedback: whether the run learns what the database has of feedback. It belongs to one model.
        database_url: the database; empty for a file beside the models. It may contain a password, so it is neither
            logged nor given as an argument.
        encoder_dir: folder of the sentence encoder; without it, the version has no transformer stage.
        snapshot_id: train on this snapshot; the files with examples are not read then.
        run_id: the training run.

    """

    models_dir: str
    model: str
    keep_versions: int
    seed_files: tuple[str, ...]
    held_out_file: str = ""
    golden_file: str = ""
    taxonomy_file: str = ""
    models_url: str = ""
    database_url: str = field(default="", repr=False)
    with_feedback: bool = True
    encoder_dir: str = ""
    snapshot_id: str = ""
    run_id: str = ""

    @cached_property
    def database(self) -> Database:
        """The database. Each process that carries out a plan has connections of its own."""
        return Database(self.database_url or file_url(Path(self.models_dir) / DATABASE_FILE))

    @cached_property
    def registry(self) -> ModelRegistry:
        """The registry of the model."""
        return ModelRegistry(Path(self.models_dir), self.model, self.keep_versions, self.database, self.models_url)

    def to_line(self) -> bytes:
        """Return the plan as one line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: str) -> "Plan":
        """Return the plan that `to_line` wrote."""
        return cls(**json.loads(line))
