"""What the environment may set for the trainer."""

from pathlib import Path

from pydantic import Field

from services.trainer.database.database import DATABASE_FILE, file_url
from services.transport.settings import Port, SharedSettings, address


class Settings(SharedSettings):
    """Read from MOODFOOD_* variables: the shared ones, when a run is due, and how long things are kept."""

    database_url: str = ""
    inference_targets: str = ""
    keep_versions: int = Field(default=10, ge=1)
    rehearsal_memory_mib: int = Field(default=1024, ge=64)
    retrain_samples: int = Field(default=50, ge=0)
    retrain_days: int = Field(default=30, ge=0)
    retrain_on_drift: bool = False
    metrics_port: Port = Field(default=9452, validation_alias="MOODFOOD_TRAINER_METRICS_PORT")
    retention_days: int = Field(default=0, ge=0)
    keep_queries: int = Field(default=1_000_000, ge=1000)

    @property
    def targets(self) -> tuple[str, ...]:
        """Addresses of the inference replicas; the local one if none are named."""
        named = tuple(target.strip() for target in self.inference_targets.split(",") if target.strip())
        return named or (address(self.host, self.inference_port),)

    @property
    def database_location(self) -> str:
        """URL of the database: the named one, or a file in the data folder."""
        return self.database_url or file_url(self.data_dir / DATABASE_FILE)

    @property
    def query_log_path(self) -> Path:
        """The log to which retraining events are appended."""
        return self.data_dir / "logs" / "query_logs.jsonl"

    @property
    def retrain_log_path(self) -> Path:
        """The log of training runs for people."""
        return self.data_dir / "logs" / "retrain.log"
