"""Reads the model registry: the alias, the experiment, and the files of a version. It never writes.

The repository can be a network volume that hangs or a bucket that is away, so nothing of it is read on the event loop.
What was last seen stays in memory.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import TypeVar

import structlog
from google.protobuf import json_format
from google.protobuf.message import Message
from moodfood.registry.v1.manifest_pb2 import ChampionAlias, Experiment, FileChecksum, Manifest

from services.inference.errors import ModelRejected, ModelVersionNotFound, RegistryUnavailable
from services.inference.models.threads import call_in_thread
from services.language.names import (
    ALIAS_FILE,
    EXPERIMENT_FILE,
    EXPLANATION_FILE,
    HEAD_FILE,
    LINEAR_FILE,
    MANIFEST_FILE,
)
from services.repository.errors import DamagedVersion, RepositoryUnavailable, VersionMissing
from services.repository.repository import Repository

# How many of the newest fetched versions stay on this machine besides those in memory.
NEWEST_COPIES = 3

M = TypeVar("M", bound=Message)

_log = structlog.get_logger()


class RegistryReader:
    """Reads one model's repository. Its coroutines belong on the event loop; `read` blocks and belongs in a thread.

    Attributes:
        alias: the champion alias as it was last seen; None while none was seen.
        problem: why the alias could not be read at the last look; empty when it could.

    """

    def __init__(self, repository: Repository, model: str) -> None:
        self._repository = repository
        self._model = model
        # While one look hangs, others wait here instead of in threads of their own.
        self._looking = {name: asyncio.Lock() for name in (ALIAS_FILE, EXPERIMENT_FILE)}
        self.alias: ChampionAlias | None = None
        self.problem = ""

    async def look_at_alias(self) -> ChampionAlias | None:
        """Read the alias now and return it; None while there is none.

        An alias with a lower generation than one that was seen comes from a lagging copy, and a damaged one says
        nothing. In both cases, the one seen before is returned.

        Raises:
            RegistryUnavailable: the repository gives no answer; `alias` is as before. While none was seen, it is the
                one that an earlier process on this machine saw last.

        """
        try:
            found = await self._look(ALIAS_FILE, ChampionAlias())
        except RegistryUnavailable as error:
            self.problem = str(error)
            if self.alias is None:
                self.alias = await call_in_thread(self._last_alias)
            raise
        except json_format.ParseError:
            self._report_damage()
            return self.alias
        self.problem = ""
        if found is None or self.alias is None or found.generation >= self.alias.generation:
            self.alias = found
        return self.alias

    async def look_at_experiment(self) -> Experiment | None:
        """Read the experiment now, running or ended, and return it; None if there is none or it is damaged.

        Raises:
            RegistryUnavailable: the repository gives no answer.

        """
        try:
            return await self._look(EXPERIMENT_FILE, Experiment())
        except json_format.ParseError:
            return None

    async def _look(self, name: str, message: M) -> M | None:
        async with self._looking[name]:
            try:
                stored = await call_in_thread(lambda: self._repository.read(name))
            except RepositoryUnavailable as error:
                raise RegistryUnavailable(str(error)) from error
        return None if stored is None else _parse(stored.content, message)

    def _last_alias(self) -> ChampionAlias | None:
        content = self._repository.last_read(ALIAS_FILE)
        try:
            return None if content is None else _parse(content, ChampionAlias())
        except json_format.ParseError:
            return None

    def _report_damage(self) -> None:
        if not self.problem:
            _log.error("the champion alias is damaged; the version that serves goes on")
        self.problem = "the champion alias is damaged; promote a version or restart the trainer to write it again"

    def read(self, version: int) -> tuple[Manifest, dict[str, bytes]]:
        """Return a version's manifest and its files, each checked against the manifest.

        Raises:
            ModelVersionNotFound: there is no such version.
            ModelRejected: the manifest cannot be read or belongs to another version, or a file is missing or damaged.
            RegistryUnavailable: the repository gives no answer.

        """
        try:
            return self._read_folder(self._repository.folder_of(version), version)
        except VersionMissing as error:
            raise ModelVersionNotFound(version) from error
        except DamagedVersion as error:
            raise ModelRejected(version, "checksum", error.problem) from error
        except RepositoryUnavailable as error:
            raise RegistryUnavailable(str(error)) from error
        except ModelRejected:
            # If the damage is on this machine only, the next try fetches the version again.
            with contextlib.suppress(RepositoryUnavailable):
                self._repository.drop_copy(version)
            raise

    def drop_old_copies(self, kept: Collection[int]) -> None:
        """Remove the fetched versions from this machine, except the newest few and those to keep. Blocks."""
        try:
            for version in self._repository.copies()[NEWEST_COPIES:]:
                if version not in kept:
                    self._repository.drop_copy(version)
        except RepositoryUnavailable as error:
            _log.warning("cannot remove old copies of versions", problem=str(error))

    def _read_folder(self, folder: Path, version: int) -> tuple[Manifest, dict[str, bytes]]:
        manifest = self._read_manifest(folder, version)
        contents = {listed.path: self._read_checked(folder, version, listed) for listed in manifest.files}
        needed = [LINEAR_FILE, EXPLANATION_FILE, *([HEAD_FILE] if manifest.HasField("head") else [])]
        for name in needed:
            if name not in contents:
                raise ModelRejected(version, "manifest", f"it does not list the file {name}")
        return manifest, contents

    def _read_manifest(self, folder: Path, version: int) -> Manifest:
        try:
            manifest = _parse((folder / MANIFEST_FILE).read_bytes(), Manifest())
        except (OSError, json_format.ParseError) as error:
            raise ModelRejected(version, "manifest", f"{MANIFEST_FILE} cannot be read") from error
        if manifest.version != version or manifest.model != self._model:
            raise ModelRejected(
                version, "identity", f"the manifest belongs to version {manifest.version} of {manifest.model!r}"
            )
        return manifest

    def _read_checked(self, folder: Path, version: int, listed: FileChecksum) -> bytes:
        path = listed.path
        if Path(path).name != path:
            raise ModelRejected(version, "manifest", f"{path!r} is not a file in the folder of the version")
        try:
            content = (folder / path).read_bytes()
        except OSError as error:
            raise ModelRejected(version, "files", f"{path} cannot be read") from error
        if len(content) != listed.size_bytes:
            raise ModelRejected(
                version, "size", f"{path} has {len(content)} bytes, not {listed.size_bytes} as in the manifest"
            )
        if hashlib.sha256(content).hexdigest() != listed.sha256:
            raise ModelRejected(version, "checksum", f"the SHA-256 of {path} differs from the manifest")
        return content


def _parse(content: bytes, message: M) -> M:
    """Return a message filled from JSON. Raises ParseError."""
    try:
        return json_format.Parse(content, message, ignore_unknown_fields=True)
    except ValueError as error:  # bytes that are no text
        raise json_format.ParseError(str(error)) from error
