"""What several routes share: types of fields, times, and the reading of proto messages into answers."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from litestar.openapi.spec import Operation, RequestBody
from litestar.params import QueryParameter
from msgspec import Meta, Struct

# The owner of this limit is services/language/text.py; a contract test proves that both say the same.
MAX_TEXT_CHARS = 10_000

Text = Annotated[
    str,
    Meta(
        max_length=MAX_TEXT_CHARS,
        description="What the user said",
        examples=["rainy day, I want something warm and cozy"],
    ),
]
Label = Annotated[str, Meta(min_length=1, max_length=200, examples=["goal_comfort"])]
VersionNumber = Annotated[int, Meta(ge=1, le=2**31 - 1, description="Number of a version in the registry")]
By = Annotated[str, Meta(max_length=128, description="Who asks; the history keeps it")]
Reason = Annotated[str, Meta(max_length=1000, description="Why; the history keeps it")]
Limit = Annotated[int, QueryParameter(ge=1, le=1000, description="At most this many entries, newest first")]

Moment = Annotated[str, Meta(description="Time in UTC, to the second", examples=["2025-08-20T14:30:00"])]
Instant = Annotated[str, Meta(description="Time in UTC, RFC 3339", examples=["2025-08-20T14:30:00.250Z"])]
# JSON has no literals for these three, so the answers hold them as texts.
Number = float | Literal["Infinity", "-Infinity", "NaN"]

Answer = TypeVar("Answer", bound=Struct)


@dataclass
class OptionalBody(Operation):
    """Describes a route whose body may be missing; Litestar describes every body as required."""

    def __post_init__(self) -> None:
        """Correct the description."""
        if isinstance(self.request_body, RequestBody):
            self.request_body.required = False


class Body(Struct, forbid_unknown_fields=True):
    """A JSON body. A field that it does not know is an error: a misspelt field must not be ignored."""


def now() -> str:
    """Return the present time as a `Moment`."""
    return _text(datetime.now(UTC))


def moment(stamp: Timestamp) -> str | None:
    """Return a timestamp as a `Moment`; None when it is not set."""
    return _text(stamp.ToDatetime(UTC)) if stamp.seconds else None


def _text(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S")


def read(message: Message, kind: type[Answer], **more: Any) -> Answer:
    """Return a message as an answer of this kind, which has the proto's field names; `more` are its other fields.

    Raises:
        msgspec.ValidationError: the kind does not fit the message.

    """
    return msgspec.convert({**to_json(message), **more}, kind)


def to_json(message: Message) -> dict[str, Any]:
    """Return a message as JSON values: an enum is its short name, such as "running" for RUN_STATE_RUNNING.

    A 64-bit integer is a text of digits and a time is an `Instant`, as in proto3's JSON. Messages that are not set are
    left out.
    """
    shown = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    _shorten_enums(shown, message.DESCRIPTOR)
    return shown


def _shorten_enums(shown: dict[str, Any], descriptor: Any) -> None:
    for field in descriptor.fields:
        value = shown.get(field.name)
        if field.enum_type and value is not None:
            names = field.enum_type
            shown[field.name] = (
                [short_name(name, names) for name in value] if field.is_repeated else short_name(value, names)
            )
        elif field.message_type:
            for inner in value if field.is_repeated and isinstance(value, list) else [value]:
                if isinstance(inner, dict):
                    _shorten_enums(inner, field.message_type)


def short_name(name: str | int, descriptor: Any) -> str:
    """Return the lower-case name of a value without its enum's prefix; a number that has no name is "unspecified"."""
    prefix = descriptor.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return name.removeprefix(prefix).lower() if isinstance(name, str) else "unspecified"
