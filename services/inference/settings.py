"""What the environment may set for the inference service."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

SHIPPED_DATA = Path(__file__).resolve().parents[2] / "data"
BUILT_MODELS = Path(__file__).resolve().parents[2] / "models"
ENCODER = Path("encoder") / "all-minilm-l6-v2"


class Settings(BaseSettings):
    """Read from MOODFOOD_* variables; every field has a default that works on one machine."""

    model_config = SettingsConfigDict(env_prefix="MOODFOOD_")

    host: str = "127.0.0.1"
    inference_port: int = 50051
    models_dir: Path = Path("models")
    data_dir: Path = Path("data")
    model: str = "mood_food"
    encoder_dir: Path | None = None
    log_level: str = "INFO"
    logs_dir: Path | None = None
    keep_warm_seconds: float = Field(default=600.0, ge=0)
    query_log_max_bytes: int = 64 * 1024 * 1024
    query_log_keep_files: int = 5

    @property
    def encoder_path(self) -> Path:
        """The sentence encoder's folder: the one named, that of the models folder, or the one built at set-up."""
        own = self.models_dir / ENCODER
        return self.encoder_dir or (own if own.exists() else BUILT_MODELS / ENCODER)

    @property
    def taxonomy_path(self) -> Path:
        """The taxonomy of the data folder, or the shipped one."""
        return self._own_or_shipped("taxonomy/mood_food_taxonomy.json")

    @property
    def catalogue_path(self) -> Path:
        """The dishes of the data folder, or the shipped ones."""
        return self._own_or_shipped("catalogue/dishes.json")

    @property
    def query_log_path(self) -> Path:
        """Where queries are logged."""
        return (self.logs_dir or self.data_dir / "logs") / "query_logs.jsonl"

    def _own_or_shipped(self, name: str) -> Path:
        own = self.data_dir / name
        return own if own.exists() else SHIPPED_DATA / name
