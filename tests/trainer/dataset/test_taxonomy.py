import json
from pathlib import Path

import pytest

from services.trainer.dataset.examples import TAXONOMY, Example
from services.trainer.dataset.taxonomy import KnownLabels, load_taxonomy_labels
from services.trainer.errors import BrokenData


def write(folder: Path, *labels: dict[str, object]) -> Path:
    path = folder / "taxonomy.json"
    path.write_text(json.dumps({"labels": labels}))
    return path


def test_descriptor_of_several_labels_is_one_example_of_all_of_them(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {"label": "b", "descriptors": ["warm", "spicy"]},
        {"label": "a", "descriptors": ["warm"]},
        {"label": "c"},
    )
    read = load_taxonomy_labels(path)
    assert read.names == ("b", "a", "c")
    assert (Example("warm", ("b", "a"), TAXONOMY), Example("spicy", ("b",), TAXONOMY)) == read.descriptor_examples


def test_label_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BrokenData, match="twice"):
        load_taxonomy_labels(write(tmp_path, {"label": "a"}, {"label": "a"}))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"labels": [{}]}', '{"labels": 3}', '{"labels": ["a"]}'])
def test_file_that_is_no_taxonomy_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "taxonomy.json"
    path.write_text(content)
    with pytest.raises(BrokenData, match="cannot read the taxonomy"):
        load_taxonomy_labels(path)


def test_labels_that_feedback_may_use_follow_the_files_while_the_trainer_runs(tmp_path: Path) -> None:
    seeds = tmp_path / "seeds.csv"
    seeds.write_text("text,labels\nit jams,printer\n")
    known = KnownLabels(lambda: (None, sorted(tmp_path.glob("*.csv"))))
    assert known.now() == ("printer",)
    (tmp_path / "more.csv").write_text("text,labels\nthe door is shut,building\n")
    assert {"printer", "building"} == set(known.now())


def test_labels_stay_known_when_a_file_becomes_unreadable(tmp_path: Path) -> None:
    taxonomy = tmp_path / "labels.json"
    taxonomy.write_text('{"labels": [{"label": "printer"}]}')
    known = KnownLabels(lambda: (taxonomy, ()))
    taxonomy.write_text('{"labels": [')
    assert known.now() == ("printer",)
    taxonomy.unlink()
    assert known.now() == ("printer",)
