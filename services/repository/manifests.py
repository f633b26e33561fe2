"""Compares the files of a version with its manifest."""

import hashlib
from pathlib import Path

from google.protobuf import json_format
from moodfood.registry.v1.manifest_pb2 import FileChecksum, Manifest

from services.language.names import MANIFEST_FILE
from services.repository.errors import DamagedVersion


def read_checksums(version: int, manifest: bytes) -> dict[str, FileChecksum]:
    """Return the files of a manifest by their names. Raises DamagedVersion."""
    try:
        parsed = json_format.Parse(manifest, Manifest(), ignore_unknown_fields=True)
    except (ValueError, json_format.ParseError) as error:
        raise DamagedVersion(version, f"{MANIFEST_FILE} cannot be read") from error
    for listed in parsed.files:
        if listed.path in {"", ".", ".."} or Path(listed.path).name != listed.path:
            raise DamagedVersion(version, f"{listed.path!r} in its manifest is no name of a file")
    return {listed.path: listed for listed in parsed.files}


def check_content(version: int, listed: FileChecksum, size: int, sha256: str) -> None:
    """Raise DamagedVersion when a file has another size or digest than the manifest says."""
    if size != listed.size_bytes:
        problem = f"{listed.path} has {size} bytes, not {listed.size_bytes} as in the manifest"
        raise DamagedVersion(version, problem)
    if sha256 != listed.sha256:
        raise DamagedVersion(version, f"the SHA-256 of {listed.path} differs from the manifest")


def check_file(version: int, listed: FileChecksum, path: Path) -> None:
    """Raise DamagedVersion when a file is missing or differs from the manifest."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            check_content(version, listed, file.tell(), digest)
    except FileNotFoundError as error:
        raise DamagedVersion(version, f"{listed.path} is missing") from error
