from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np

from services.language.encoder import Encoder
from services.trainer.graphs.embeddings import EmbeddingStore


@dataclass
class LengthEncoder:
    """Embeds a text as its length, and remembers what it was asked."""

    name: str = "length-1"
    columns: int = 2
    asked: list[str] = field(default_factory=list)

    def embed(self, texts: list[str]) -> np.ndarray:
        self.asked += texts
        return np.array([[len(text), 1] for text in texts], dtype=np.float32)


def store(folder: Path) -> tuple[EmbeddingStore, LengthEncoder]:
    encoder = LengthEncoder()
    return EmbeddingStore(cast(Encoder, encoder), folder), encoder


def test_only_what_is_new_is_embedded_also_by_the_next_run(tmp_path: Path) -> None:
    first, encoder = store(tmp_path)
    assert first.embed(["a", "bb", "a"]).tolist() == [[1, 1], [2, 1], [1, 1]]
    assert encoder.asked == ["a", "bb"]
    first.save()
    second, encoder = store(tmp_path)
    assert second.embed(["bb", "ccc"]).tolist() == [[2, 1], [3, 1]]
    assert encoder.asked == ["ccc"]


def test_text_that_a_run_did_not_need_leaves_the_store(tmp_path: Path) -> None:
    first, _ = store(tmp_path)
    first.embed(["forget me", "keep me"])
    first.save()
    second, _ = store(tmp_path)
    second.embed(["keep me", "new"])
    second.save()
    third, encoder = store(tmp_path)
    third.embed(["keep me", "forget me"])
    assert encoder.asked == ["forget me"]


def test_file_that_cannot_be_read_costs_only_time(tmp_path: Path) -> None:
    first, _ = store(tmp_path)
    first.embed(["a"])
    first.save()
    (path,) = tmp_path.iterdir()
    for content in (b"", b"garbage", path.read_bytes()[:100]):
        path.write_bytes(content)
        again, encoder = store(tmp_path)
        assert again.embed(["a"]).tolist() == [[1, 1]]
        assert encoder.asked == ["a"]


def test_nothing_new_is_not_written(tmp_path: Path) -> None:
    first, _ = store(tmp_path)
    first.embed([])
    first.save()
    assert list(tmp_path.iterdir()) == []
