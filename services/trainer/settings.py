"""What the environment may set for the trainer."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

SHIPPED_DATA = Path(__file__).resolve().parents[2] / "data"
BUILT_MODELS = Path(__file__).resolve().parents[2] / "models"
ENCODER = Path("encoder") / "all-minilm-l6-v2"


def encoder_folder(named: Path | None, models_dir: Path) -> Path:
    """Return the sentence encoder's folder: the one named, that of the models folder, or the one built at set-up."""
    own = models_dir / ENCODER
    return named or (own if own.exists() else BUILT_MODELS / ENCODER)


class Settings(BaseSettings):
    """Read from MOODFOOD_* variables; every field has a default that works on one machine."""

    model_config = SettingsConfigDict(env_prefix="MOODFOOD_")

    host: str = "127.0.0.1"
    trainer_port: int = 50052
    inference_port: int = 50051
    inference_targets: str = ""
    models_dir: Path = Path("models")
    data_dir: Path = Path("data")
    model: str = "mood_food"
    encoder_dir: Path | None = None
    keep_versions: int = 10
    rehearsal_memory_mib: int = Field(default=1024, ge=64)
    retrain_samples: int = 50
    retrain_days: int = 30
    retrain_on_drift: bool = False
    metrics_port: int = Field(default=9452, validation_alias="MOODFOOD_TRAINER_METRICS_PORT")
    retention_days: int = Field(default=0, ge=0)
    log_level: str = "INFO"

    @property
    def targets(self) -> tuple[str, ...]:
        """Addresses of the inference replicas; the local one if none are named."""
        named = tuple(each.strip() for each in self.inference_targets.split(",") if each.strip())
        return named or (f"{self.host}:{self.inference_port}",)

    @property
    def encoder_path(self) -> Path:
        """The sentence encoder's folder."""
        return encoder_folder(self.encoder_dir, self.models_dir)

    @property
    def taxonomy_path(self) -> Path:
        """The taxonomy of the data folder, or the shipped one."""
        return self._own_or_shipped("taxonomy/mood_food_taxonomy.json")

    @property
    def examples_dir(self) -> Path:
        """The examples of the data folder, or the shipped ones."""
        return self._own_or_shipped("examples")

    @property
    def feedback_path(self) -> Path:
        """Where feedback is stored."""
        return self.data_dir / "feedback" / "feedback.jsonl"

    @property
    def review_dir(self) -> Path:
        """Where the review queue keeps what is suspected and what was decided."""
        return self.data_dir / "review"

    @property
    def drift_dir(self) -> Path:
        """Where the traffic at promotion is kept."""
        return self.data_dir / "drift"

    @property
    def schedule_path(self) -> Path:
        """Where the schedule is kept."""
        return self.data_dir / "schedule.json"

    @property
    def runs_dir(self) -> Path:
        """Where training runs are stored."""
        return self.data_dir / "runs"

    @property
    def query_log_path(self) -> Path:
        """The query log, which inference writes and to which retraining events are appended."""
        return self.data_dir / "logs" / "query_logs.jsonl"

    @property
    def retrain_log_path(self) -> Path:
        """The log of training runs for people."""
        return self.data_dir / "logs" / "retrain.log"

    def _own_or_shipped(self, name: str) -> Path:
        own = self.data_dir / name
        return own if own.exists() else SHIPPED_DATA / name
