"""What the environment may set for the inference service."""

from pathlib import Path

from pydantic import Field

from services.transport.settings import SharedSettings


class Settings(SharedSettings):
    """Read from MOODFOOD_* variables: the shared ones, and where and how much of the queries is logged."""

    logs_dir: Path | None = None
    keep_warm_seconds: float = Field(default=600.0, ge=0)
    query_log_max_bytes: int = Field(default=64 * 1024 * 1024, ge=1)
    query_log_keep_files: int = Field(default=5, ge=0)

    @property
    def query_log_path(self) -> Path:
        """Where queries are logged."""
        return (self.logs_dir or self.data_dir / "logs") / "query_logs.jsonl"
