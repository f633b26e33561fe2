"""What the environment may set for the command line; the same variables as for the services."""

import os
from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict

from services.trainer.settings import encoder_folder
from services.transport.tether import SUPERVISOR_VARIABLE


class Settings(BaseSettings):
    """Read from MOODFOOD_* variables."""

    model_config = SettingsConfigDict(env_prefix="MOODFOOD_")

    host: str = "127.0.0.1"
    gateway_port: int = 8000
    inference_port: int = 50051
    trainer_port: int = 50052
    inference_address: str = ""
    trainer_address: str = ""
    models_dir: Path = Path("models")
    data_dir: Path = Path("data")
    model: str = "mood_food"
    encoder_dir: Path | None = None

    @property
    def encoder_path(self) -> Path:
        """The sentence encoder's folder."""
        return encoder_folder(self.encoder_dir, self.models_dir)

    @property
    def inference(self) -> str:
        """Address of inference."""
        return self.inference_address or f"{self.host}:{self.inference_port}"

    @property
    def trainer(self) -> str:
        """Address of the trainer."""
        return self.trainer_address or f"{self.host}:{self.trainer_port}"

    @property
    def gateway(self) -> str:
        """URL of the gateway."""
        return f"http://{self.host}:{self.gateway_port}"

    def process_environment(self) -> dict[str, str]:
        """Return the environment that `up` gives to every service."""
        return {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            SUPERVISOR_VARIABLE: str(os.getpid()),
            "MOODFOOD_MODELS_DIR": str(self.models_dir.resolve()),
            "MOODFOOD_DATA_DIR": str(self.data_dir.resolve()),
            "MOODFOOD_ENCODER_DIR": str(self.encoder_path.resolve()),
        }
