"""What the environment may set for the gateway."""

from pydantic import Field

from services.transport.settings import Seconds, SharedSettings


class Settings(SharedSettings):
    """Read from MOODFOOD_* variables: the shared ones, and how long a call may take and how large a body may be."""

    query_deadline_seconds: Seconds = 5.0
    training_deadline_seconds: Seconds = 10.0
    promotion_deadline_seconds: Seconds = 60.0
    max_body_bytes: int = Field(default=4 * 1024 * 1024, ge=1)
