"""Reads the files of the model registry: the alias, the experiment, and the files of a version. It never writes."""

import contextlib
import hashlib
from pathlib import Path

from google.protobuf import json_format
from moodfood.registry.v1.manifest_pb2 import (
    HISTORY_ACTION_REFUSED,
    ChampionAlias,
    Experiment,
    FileChecksum,
    HistoryEntry,
    Manifest,
)

from services.inference.errors import ModelRejected, ModelVersionNotFound
from services.language.names import (
    ALIAS_FILE,
    EXPERIMENT_FILE,
    EXPLANATION_FILE,
    HEAD_FILE,
    HISTORY_FILE,
    LINEAR_FILE,
    MANIFEST_FILE,
)


class RegistryReader:
    """Reads the folder models/<model>. It has no state, so threads may share it."""

    def __init__(self, models_dir: Path, model: str) -> None:
        self._folder = models_dir / model
        self._model = model

    def champion(self) -> ChampionAlias | None:
        """Return the champion alias; None while there is none.

        When its file is damaged, the last change in the history says which version is the champion.
        """
        try:
            text = (self._folder / ALIAS_FILE).read_text(encoding="utf-8")
            return json_format.Parse(text, ChampionAlias(), ignore_unknown_fields=True)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, json_format.ParseError):
            return self._find_last_in_history()

    def _find_last_in_history(self) -> ChampionAlias | None:
        try:
            lines = (self._folder / HISTORY_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return None
        for line in reversed(lines):
            with contextlib.suppress(json_format.ParseError):
                entry = json_format.Parse(line, HistoryEntry(), ignore_unknown_fields=True)
                if entry.action != HISTORY_ACTION_REFUSED:
                    return ChampionAlias(version=entry.to_version, generation=entry.generation)
        return None

    def experiment(self) -> Experiment | None:
        """Return the experiment of the file, running or ended; None if there is none or it cannot be read."""
        try:
            text = (self._folder / EXPERIMENT_FILE).read_text(encoding="utf-8")
            return json_format.Parse(text, Experiment(), ignore_unknown_fields=True)
        except (OSError, ValueError, json_format.ParseError):
            return None

    def read(self, version: int) -> tuple[Manifest, dict[str, bytes]]:
        """Return a version's manifest and its files, each checked against the manifest.

        Raises:
            ModelVersionNotFound: the version has no folder.
            ModelRejected: the manifest cannot be read or belongs to another version, or a file is missing or damaged.

        """
        folder = self._folder / str(version)
        if version < 1 or not folder.is_dir():
            raise ModelVersionNotFound(version)
        manifest = self._read_manifest(folder, version)
        contents = {listed.path: self._read_checked(folder, version, listed) for listed in manifest.files}
        needed = [LINEAR_FILE, EXPLANATION_FILE, *([HEAD_FILE] if manifest.HasField("head") else [])]
        for name in needed:
            if name not in contents:
                raise ModelRejected(version, "manifest", f"it does not list the file {name}")
        return manifest, contents

    def _read_manifest(self, folder: Path, version: int) -> Manifest:
        try:
            text = (folder / MANIFEST_FILE).read_text(encoding="utf-8")
            manifest = json_format.Parse(text, Manifest(), ignore_unknown_fields=True)
        except (OSError, ValueError, json_format.ParseError) as error:
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
