"""Chooses the repository of a model by its address."""

from pathlib import Path

from services.repository.bucket import BucketRepository
from services.repository.folder import FolderRepository
from services.repository.repository import Repository

# Apart from the folders of models. So versions that were there before the bucket are taken for no copies, which go.
COPIES_FOLDER = ".fetched"


def open_repository(url: str, models_dir: Path, model: str) -> Repository:
    """Return the repository of a model.

    Args:
        url: `s3://bucket/prefix`; empty for the folder `models_dir`.
        models_dir: the folder with the models, or, with a URL, the local copies of what was fetched.
        model: name of the model.

    """
    if url:
        return BucketRepository(url, model, cache=models_dir / COPIES_FOLDER / model)
    return FolderRepository(models_dir / model)
