from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from services.language.encoder import Encoder
from services.trainer.dataset import vectors
from services.trainer.dataset.words import text_key
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
    intact = path.read_bytes()
    for damaged in (b"", b"garbage", intact[:20], intact[:-1], intact + b"x", b"x" * 16 + intact[16:]):
        path.write_bytes(damaged)
        again, encoder = store(tmp_path)
        assert again.embed(["a"]).tolist() == [[1, 1]]
        assert encoder.asked == ["a"]


def test_nothing_new_is_not_written(tmp_path: Path) -> None:
    first, _ = store(tmp_path)
    first.embed([])
    first.save()
    assert list(tmp_path.iterdir()) == []


def test_file_is_opened_without_reading_it_and_gives_each_text_its_own_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "ROWS_AT_ONCE", 7)
    first, _ = store(tmp_path)
    texts = ["x" * length for length in range(1, 100)]
    first.embed(texts)
    first.save()
    monkeypatch.setattr(Path, "read_bytes", lambda _path: pytest.fail("the file was read as a whole"))
    second, encoder = store(tmp_path)
    chosen = [texts[70], texts[3], "y", texts[70], texts[98]]
    assert second.embed(chosen).tolist() == [[71, 1], [4, 1], [1, 1], [71, 1], [99, 1]]
    assert encoder.asked == ["y"]


def test_store_that_was_saved_goes_on(tmp_path: Path) -> None:
    first, encoder = store(tmp_path)
    first.embed(["a", "bb"])
    first.save()
    assert first.embed(["bb", "ccc"]).tolist() == [[2, 1], [3, 1]]
    first.save()
    second, again = store(tmp_path)
    second.embed(["a", "bb", "ccc"])
    assert (encoder.asked, again.asked) == (["a", "bb", "ccc"], [])


def test_file_of_an_encoder_with_other_columns_counts_as_empty(tmp_path: Path) -> None:
    first, _ = store(tmp_path)
    first.embed(["a"])
    first.save()
    wide = LengthEncoder(columns=3)
    assert EmbeddingStore(cast(Encoder, wide), tmp_path).embed([]).shape == (0, 3)
    assert len(vectors.open_vectors(tmp_path / "length-1.vectors", 3).keys) == 0


def test_forgotten_texts_leave_the_files_of_all_encoders_and_other_texts_stay(tmp_path: Path) -> None:
    for name in ("length-1", "length-2"):
        one = EmbeddingStore(cast(Encoder, LengthEncoder(name)), tmp_path)
        one.embed(["forget me", "keep me", "me too", "Forget me!"])
        one.save()
    only = EmbeddingStore(cast(Encoder, LengthEncoder("length-3")), tmp_path)
    only.embed(["forget me"])
    only.save()
    leftovers = [tmp_path / name for name in ("length-1.npz", ".length-2.npz.left", ".length-1.vectors.left")]
    for path in (*leftovers, tmp_path / "damaged.vectors"):
        path.write_text("forget me")
    assert vectors.forget_vectors(tmp_path, [text_key("forget me"), text_key("never said")]) == 5
    assert {"length-1.vectors", "length-2.vectors"} == {path.name for path in tmp_path.iterdir()}
    again, encoder = store(tmp_path)
    again.embed(["forget me", "keep me", "me too"])
    assert encoder.asked == ["forget me"]
    assert vectors.forget_vectors(tmp_path / "nowhere", [text_key("forget me")]) == 0


def test_files_of_earlier_releases_are_deleted_when_there_is_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "length-1.npz").write_text("old")
    first, _ = store(tmp_path)
    first.embed(["a"])
    first.save()
    assert [path.name for path in tmp_path.iterdir()] == ["length-1.vectors"]
