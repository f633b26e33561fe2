"""What the environment may set for the gateway."""

from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Read from MOODFOOD_* variables; every field has a default that works on one machine."""

    model_config = SettingsConfigDict(env_prefix="MOODFOOD_")

    host: str = "127.0.0.1"
    gateway_port: int = 8000
    inference_port: int = 50051
    trainer_port: int = 50052
    inference_address: str = ""
    trainer_address: str = ""
    query_deadline_seconds: float = 5.0
    training_deadline_seconds: float = 10.0
    promotion_deadline_seconds: float = 60.0
    max_body_bytes: int = 4 * 1024 * 1024
    log_level: str = "INFO"

    @property
    def inference(self) -> str:
        """Address of inference; the local one if none is named. `dns:///name:port` balances over its replicas."""
        return self.inference_address or f"{self.host}:{self.inference_port}"

    @property
    def trainer(self) -> str:
        """Address of the trainer; the local one if none is named."""
        return self.trainer_address or f"{self.host}:{self.trainer_port}"
