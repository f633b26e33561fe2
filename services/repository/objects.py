"""The objects of one model in an object store: calls with time limits, and errors in plain words.

Endpoint, region and credentials come from the usual AWS_* variables: AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY and so on. AWS_ALLOW_HTTP=true allows an endpoint without TLS.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, PreconditionError
from obstore.exceptions import UnauthenticatedError as NotAuthenticatedError
from obstore.store import S3Store

from services.repository.errors import Changed, RepositoryUnavailable
from services.repository.repository import Stored

if TYPE_CHECKING:
    from obstore import PutMode

CONNECT_SECONDS = 2.0
LONGEST_BACKOFF_SECONDS = 1.0
MAX_RETRIES = 10
SMALL_BYTES = 256 * 1024


@dataclass(frozen=True)
class TimeLimits:
    """How long calls to an object store may take, in seconds.

    A call for a small file or a list takes at most `request + retrying`: no retry begins later than `retrying`.

    Attributes:
        request: one request for a small file or a list.
        retrying: a request that failed is repeated, with growing pauses, for so long.
        transfer: one request for a file of a version or for a large file.

    """

    request: float = 4.0
    retrying: float = 5.0
    transfer: float = 60.0


class ObjectMissing(Exception):
    """There is no object of that name."""


@dataclass(frozen=True)
class Fetched:
    """What was fetched into a file: its size in bytes, and the SHA-256 of it in hexadecimal digits."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Listed:
    """An object in a list: its name inside the model, and when it was written."""

    name: str
    written_at: datetime


class Objects:
    """The objects of one model, named as in the model's folder. Threads may share it.

    Every call can raise RepositoryUnavailable.
    """

    def __init__(self, url: str, model: str, limits: TimeLimits) -> None:
        self._model = model
        self._small = connect(url, limits.request, limits.retrying)
        self._large = connect(url, limits.transfer, limits.retrying)

    def read(self, name: str) -> Stored | None:
        """Return a small object; None if there is none."""
        try:
            with store_errors(f"read {name}"):
                found = self._small.get(self._key(name))
                return Stored(bytes(found.bytes()), found.meta["e_tag"] or "")
        except FileNotFoundError:
            return None

    def put(self, name: str, content: bytes, tag: str | None) -> str:
        """Replace the object of a tag, or with None write a new one, and return the new tag. Raises Changed."""
        store = self._small if len(content) <= SMALL_BYTES else self._large
        try:
            with store_errors(f"write {name}"):
                return store.put(self._key(name), content, mode=_only_if(tag))["e_tag"] or ""
        except (AlreadyExistsError, PreconditionError, FileNotFoundError) as error:
            # When the answer to a put is lost, it is repeated and meets its own object.
            present = self.read(name)
            if present is not None and present.content == content:
                return present.tag
            raise Changed(name) from error

    def fetch(self, name: str, path: Path) -> Fetched:
        """Fetch an object into a new file, and wait until it is on disk. Raises ObjectMissing."""
        with store_errors(f"fetch {name}"), path.open("wb") as file:
            fetched = self.fetch_into(name, file)
            os.fsync(file.fileno())
        return fetched

    def fetch_into(self, name: str, file: BinaryIO) -> Fetched:
        """Fetch an object into an empty file. Raises ObjectMissing."""
        digest, size = hashlib.sha256(), 0
        try:
            with store_errors(f"fetch {name}"):
                for chunk in self._large.get(self._key(name)).stream():
                    digest.update(chunk)
                    size += file.write(chunk)
                file.flush()
        except FileNotFoundError as error:
            raise ObjectMissing from error
        return Fetched(size, digest.hexdigest())

    def send(self, name: str, file: BinaryIO) -> None:
        """Write an object from a file, whatever was there."""
        with store_errors(f"write {name}"):
            # An upload in parts that dies would leave parts in the bucket that nobody sees.
            self._large.put(self._key(name), file, use_multipart=False)

    def list(self, folder: str = "") -> list[Listed]:
        """Return the objects in a folder and in the folders inside it; all objects without a folder."""
        key = self._key(folder) if folder else self._model
        with store_errors("list the repository"):
            found = self._small.list(key).collect()
        return [Listed(each["path"].removeprefix(f"{self._model}/"), each["last_modified"]) for each in found]

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects. No error for one that is not there."""
        if names:
            with store_errors("delete from the repository"):
                self._small.delete([self._key(name) for name in names])

    def _key(self, name: str) -> str:
        return f"{self._model}/{name}"


def connect(url: str, request_seconds: float, retrying_seconds: float) -> S3Store:
    """Return the store of an `s3://bucket/prefix`. It sends nothing yet.

    An overloaded store answers 5xx, which is retried like a lost connection. Replacing an object on a condition uses
    If-Match and If-None-Match, which S3 and the stores that speak its protocol know.
    """
    return S3Store.from_url(
        url,
        conditional_put="etag",
        client_options={
            "allow_http": os.environ.get("AWS_ALLOW_HTTP", "").lower() in {"true", "1", "yes"},
            "connect_timeout": timedelta(seconds=min(CONNECT_SECONDS, request_seconds)),
            "timeout": timedelta(seconds=request_seconds),
        },
        retry_config={
            "max_retries": MAX_RETRIES,
            "retry_timeout": timedelta(seconds=retrying_seconds),
            "backoff": {"max_backoff": timedelta(seconds=LONGEST_BACKOFF_SECONDS)},
        },
    )


def _only_if(tag: str | None) -> "PutMode":
    return "create" if tag is None else {"e_tag": tag}


@contextlib.contextmanager
def store_errors(doing: str) -> Iterator[None]:
    """Turn what the object store refuses inside the block into RepositoryUnavailable, "cannot <doing>: <why>".

    That an object is missing or is not the expected one passes as FileNotFoundError, AlreadyExistsError and
    PreconditionError.
    """
    try:
        yield
    except FileNotFoundError as error:
        if error.errno is None and "NoSuchBucket" not in str(error):
            raise
        raise RepositoryUnavailable(f"cannot {doing}: {_reason(error)}") from error
    except (AlreadyExistsError, PreconditionError):
        raise
    except (BaseError, OSError, ValueError) as error:
        raise RepositoryUnavailable(f"cannot {doing}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Say why, without the text of the error: it holds addresses and answers of the server."""
    if isinstance(error, OSError) and error.strerror:  # the local disk
        return error.strerror
    if "NoSuchBucket" in str(error):
        return "there is no such bucket; check MOODFOOD_MODELS_URL"
    if isinstance(error, (PermissionDeniedError, NotAuthenticatedError)):
        return "the object store refused the credentials; check the AWS_* variables and the rights on the bucket"
    if "BadScheme" in str(error):
        return "the endpoint has no TLS; set AWS_ALLOW_HTTP=true to allow this"
    return "the object store gave no usable answer in time; see that it runs and is reachable"
