"""A real S3 server on the loopback, moto's, which a test can make fail, slow, or serve an older object."""

import os
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.test import Client
from werkzeug.wrappers import Response

# moto looks at who asks and not at the signature.
SIGNED = {"Authorization": "AWS4-HMAC-SHA256 Credential=moodfood/20260101/us-east-1/s3/aws4_request, Signature=0"}

Application = Callable[[Any, Any], Iterable[bytes]]


class _Quiet(WSGIRequestHandler):
    def log(self, *args: Any, **kwargs: Any) -> None:
        """Print nothing."""


class ObjectStore:
    """The server and its bad days.

    Attributes:
        refuse: number of requests that are answered with 503 from now on.
        puts_left: number of puts that still work; None for all.
        requests: method and path of each request.

    """

    def __init__(self) -> None:
        self._moto: Application = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._serve, threaded=True, request_handler=_Quiet)
        # moto checks a condition and writes in two steps; S3 does it in one.
        self._one_at_a_time = threading.Lock()
        self._flowing = threading.Event()
        self._flowing.set()
        self._older: dict[str, Response] = {}
        self.refuse = 0
        self.puts_left: int | None = None
        self.requests: list[tuple[str, str]] = []
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """The AWS_* variables with which a process finds the server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "moodfood",
            "AWS_SECRET_ACCESS_KEY": "hush-hush",
        }

    def make_bucket(self) -> str:
        """Make a bucket and return an address in it."""
        name = f"models-{uuid.uuid4().hex}"
        self._ask("PUT", f"/{name}")
        return f"s3://{name}/team/models"

    def overwrite(self, url: str, name: str, content: bytes) -> None:
        """Put an object past the repository."""
        assert self._ask("PUT", _path(url, name), content).status_code == 200

    def serve_as_it_is(self, url: str, name: str) -> None:
        """From now on, answer with the object that is there now, as a cache or a lagging copy does."""
        path = _path(url, name)
        self._older[path] = self._ask("GET", path)

    def freeze(self) -> None:
        """Take requests and answer none, until the server is healed."""
        self._flowing.clear()

    def heal(self) -> None:
        """End all bad days."""
        self.refuse, self.puts_left = 0, None
        self._flowing.set()
        self.requests.clear()
        self._older.clear()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _ask(self, method: str, path: str, content: bytes = b"") -> Response:
        return Client(self._moto).open(path, method=method, base_url=self.endpoint, data=content, headers=SIGNED)

    def _serve(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests.append((method, path))
        self._flowing.wait()
        with self._one_at_a_time:
            if self._refuses(method):
                return Response("<Error><Code>SlowDown</Code></Error>", status=503)(environ, start_response)
            if method == "GET" and path in self._older:
                return self._older[path](environ, start_response)
            return self._moto(environ, start_response)

    def _refuses(self, method: str) -> bool:
        if self.refuse > 0:
            self.refuse -= 1
            return True
        if method == "PUT" and self.puts_left is not None:
            self.puts_left -= 1
            return self.puts_left < 0
        return False


@contextmanager
def running_object_store() -> Iterator[ObjectStore]:
    """Serve, with the AWS_* variables of this process set to the server."""
    store = ObjectStore()
    with pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            environment.delenv(name)
        for name, value in store.environment.items():
            environment.setenv(name, value)
        try:
            yield store
        finally:
            store.close()


def _path(url: str, name: str) -> str:
    return f"/{url.removeprefix('s3://')}/{name}"
