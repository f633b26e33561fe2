"""The settings of the inference service, read from the environment."""

from pathlib import Path

from pydantic import Field

from services.transport.settings import SharedSettings


class Settings(SharedSettings):
    """The shared settings, how long a former version stays in memory, and where and how much is logged and spooled.

    Every field is read from the variable MOODFOOD_<FIELD>. Sizes are in bytes and times in seconds.
    """

    logs_dir: Path | None = None
    keep_warm_seconds: float = Field(default=600.0, ge=0)
    query_log_max_bytes: int = Field(default=64 * 1024 * 1024, ge=1)
    query_log_keep_files: int = Field(default=5, ge=0)
    spool_max_bytes: int = Field(default=64 * 1024 * 1024, ge=0)

    @property
    def query_log_path(self) -> Path:
        """Path of the current file of the query log, for the first process that uses the folder."""
        return (self.logs_dir or self.data_dir / "logs") / "query_logs.jsonl"

    @property
    def spool_dir(self) -> Path:
        """Where the query records wait for the trainer."""
        return self.data_dir / "spool"
