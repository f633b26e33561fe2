"""Principal components of embeddings, the space in which the transformer stage's head is fitted."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

MAX_COMPONENTS = 400
# Rows that are converted from float16 at once, so that memory does not grow with the dataset.
CHUNK_ROWS = 8192


@dataclass(frozen=True)
class Components:
    """The leading principal components of some embeddings.

    Attributes:
        center: float32 [columns], the mean embedding.
        directions: float32 [columns, n_components]; a centred embedding times this is its projection.
        variances: float32 [n_components], the sums over all examples of the squared projections.
        projected: float32 [n_examples, n_components].

    """

    center: np.ndarray
    directions: np.ndarray
    variances: np.ndarray
    projected: np.ndarray


def find_components(embeddings: np.ndarray, most: int = MAX_COMPONENTS) -> Components:
    """Return the leading principal components of embeddings, float16 or float32 [n, columns].

    Directions are scaled so that the squared length of a centred embedding is 1 on average: one regularisation then
    suits encoders whose embeddings differ in length.
    """
    center = embeddings.mean(axis=0, dtype=np.float64).astype(np.float32)
    gram = np.zeros((embeddings.shape[1], embeddings.shape[1]))
    for chunk in float32_chunks(embeddings):
        centred = chunk - center
        gram += centred.T @ centred
    count = min(most, len(embeddings), embeddings.shape[1])
    variances, directions = np.linalg.eigh(gram)
    variances, directions = variances[-count:], directions[:, -count:]
    scale = float(np.sqrt(len(embeddings) / max(np.trace(gram), np.finfo(np.float32).tiny)))
    directions = (directions[:, ::-1] * scale).astype(np.float32)
    projected = np.concatenate([(chunk - center) @ directions for chunk in float32_chunks(embeddings)])
    return Components(center, directions, np.maximum(variances[::-1] * scale**2, 0).astype(np.float32), projected)


def float32_chunks(embeddings: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the rows of [n, columns] as float32 in chunks of CHUNK_ROWS; one empty chunk for no rows."""
    for start in range(0, max(1, len(embeddings)), CHUNK_ROWS):
        yield embeddings[start : start + CHUNK_ROWS].astype(np.float32)
