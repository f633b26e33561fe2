"""What the environment may set for the command line: the same variables as for the services."""

import os

from services.transport.settings import SharedSettings, address
from services.transport.supervisor import SUPERVISOR_VARIABLE


class Settings(SharedSettings):
    """Read from MOODFOOD_* variables."""

    @property
    def gateway(self) -> str:
        """URL of the gateway."""
        return f"http://{address(self.host, self.gateway_port)}"

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
