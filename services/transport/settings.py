"""The settings that several services read from MOODFOOD_* variables, and how a bad one is told.

A data folder that has a `taxonomy/` or an `examples/` of its own is complete by itself. The data that ships with the
project is used only when it has neither.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import BeforeValidator, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "MOODFOOD_"
PROJECT = Path(__file__).resolve().parents[2]
SHIPPED_DATA = PROJECT / "data"
BUILT_MODELS = PROJECT / "models"
BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]+(/\w[\w.-]*)*/?")
PASSWORD = re.compile(r"//[^/@]*@")
ENCODER = Path("encoder") / "all-minilm-l6-v2"

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Level = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


class BadSetting(Exception):
    """A variable has a value that cannot be used; the text names both and says what is allowed."""


class SharedSettings(BaseSettings):
    """What more than one process reads. An empty variable means the default, which works on one machine."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True)

    host: str = "127.0.0.1"
    gateway_port: Port = 8000
    inference_port: Port = 50051
    trainer_port: Port = 50052
    inference_address: str = ""
    trainer_address: str = ""
    models_dir: Path = Path("models")
    models_url: str = ""
    data_dir: Path = Path("data")
    model: str = "mood_food"
    encoder_dir: Path | None = None
    log_level: Annotated[Level, BeforeValidator(lambda text: str(text).upper())] = "INFO"

    @field_validator("host")
    @classmethod
    def _without_brackets(cls, host: str) -> str:
        return host.removeprefix("[").removesuffix("]")

    @field_validator("models_dir", "data_dir")
    @classmethod
    def _folder(cls, folder: Path) -> Path:
        """Accept a folder, or a new one in a folder that exists: a mistyped path is found here."""
        try:
            if folder.exists() and not folder.is_dir():
                raise ValueError("that is no folder; name a folder")
            if not folder.exists() and not folder.resolve().parent.is_dir():
                raise ValueError(f"there is no folder {folder.resolve().parent} to make it in; name an existing one")
        except OSError as error:
            raise ValueError(f"{error.strerror}; name a folder that can be read") from error
        return folder

    @field_validator("models_url")
    @classmethod
    def _bucket(cls, url: str) -> str:
        if url and not BUCKET.fullmatch(url):
            raise ValueError("use s3://bucket/prefix; credentials and endpoint come from the AWS_* variables")
        return url.rstrip("/")

    @field_validator("model")
    @classmethod
    def _folder_name(cls, model: str) -> str:
        if model.startswith(".") or "/" in model:
            raise ValueError("use a name for a folder: without / and without a dot at the start")
        return model

    @property
    def inference(self) -> str:
        """Address of inference; the local one if none is named. `dns:///name:port` balances over its replicas."""
        return self.inference_address or address(self.host, self.inference_port)

    @property
    def trainer(self) -> str:
        """Address of the trainer; the local one if none is named."""
        return self.trainer_address or address(self.host, self.trainer_port)

    @property
    def encoder_path(self) -> Path:
        """The sentence encoder's folder: the one named, that of the models folder, or the one built at set-up."""
        own = self.models_dir / ENCODER
        return self.encoder_dir or (own if own.exists() else BUILT_MODELS / ENCODER)

    @property
    def has_own_data(self) -> bool:
        """Whether the data folder brings its own labels or examples; the shipped ones are not used then."""
        return any((self.data_dir / name).is_dir() for name in ("taxonomy", "examples"))

    @property
    def taxonomy_path(self) -> Path | None:
        """The one JSON file in the folder `taxonomy`, whatever its name; None if there is none.

        Raises:
            BadSetting: there are two.

        """
        folder = self._data / "taxonomy"
        files = sorted(folder.glob("*.json"))
        if len(files) > 1:
            names = " and ".join(path.name for path in files)
            raise BadSetting(f"{folder} holds {names}; keep one taxonomy there")
        return files[0] if files else None

    @property
    def catalogue_path(self) -> Path | None:
        """The dishes to recommend; None if there are none. The shipped dishes go with the shipped labels only."""
        for folder in dict.fromkeys((self.data_dir, self._data)):
            path = folder / "catalogue" / "dishes.json"
            if path.is_file():
                return path
        return None

    @property
    def examples_dir(self) -> Path:
        """The folder of the examples: `train/`, `held_out.jsonl` and `golden.jsonl`, of which each may be missing."""
        return self._data / "examples"

    @property
    def seed_files(self) -> tuple[Path, ...]:
        """The examples that the first model learns from: every JSON-lines and CSV file of `train/`, by name."""
        files = (self.examples_dir / "train").glob("*")
        return tuple(sorted(path for path in files if path.suffix in {".jsonl", ".csv"}))

    @property
    def _data(self) -> Path:
        return self.data_dir if self.has_own_data else SHIPPED_DATA


AnySettings = TypeVar("AnySettings", bound=SharedSettings)


def load_settings(kind: type[AnySettings]) -> AnySettings:
    """Return the settings that the environment makes.

    Raises:
        BadSetting: one line on every variable that cannot be used.

    """
    try:
        return kind()
    except ValidationError as error:
        problems = "; ".join(_problem(kind, details) for details in error.errors())
        raise BadSetting(problems) from error


def address(host: str, port: int) -> str:
    """Return `host:port` as gRPC and URLs want it: an IPv6 address stands in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _problem(kind: type[BaseSettings], details: ErrorDetails) -> str:
    # The location of an error is the field's name, or its alias when it has one.
    location = str(details["loc"][0])
    variable = location if location.startswith(PREFIX) else f"{PREFIX}{location.upper()}"
    value = PASSWORD.sub("//***@", str(details["input"]))
    return f"{variable} is {value!r}; {_wanted(_field(kind, location), details)}"


def _field(kind: type[BaseSettings], location: str) -> FieldInfo:
    fields = kind.model_fields
    by_alias = {str(field.validation_alias): field for field in fields.values() if field.validation_alias}
    return by_alias.get(location) or fields[location]


KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


def _wanted(field: FieldInfo, details: ErrorDetails) -> str:
    """Say what the field takes: the values or the numbers, or what its validator says."""
    kind: Any = field.annotation
    if get_origin(kind) is Literal:
        *others, last = get_args(kind)
        return f"use {', '.join(others)} or {last}"
    if kind not in KINDS:
        return str(details.get("ctx", {}).get("error", details["msg"]))
    return f"use {KINDS[kind]}{_bounds(field)}"


def _bounds(field: FieldInfo) -> str:
    limits = {name: getattr(limit, name) for limit in field.metadata for name in ("ge", "gt", "le")
              if getattr(limit, name, None) is not None}  # fmt: skip
    match limits:
        case {"ge": lowest, "le": highest}:
            return f" from {lowest} to {highest}"
        case {"ge": lowest}:
            return f" of at least {lowest}"
        case {"gt": bound}:
            return f" above {bound}"
    return ""
