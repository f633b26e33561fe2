"""Which values a setting takes, and which data a service works on."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from services.trainer.settings import Settings as TrainerSettings
from services.transport.settings import SHIPPED_DATA, BadSetting, SharedSettings, address, load_settings
from tests.conftest import ROOT


def started(module: str, folder: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Start a process that a bad setting must end at once."""
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}", "PATH": "/usr/bin:/bin", "HOME": str(folder), **variables}
    return subprocess.run(
        [sys.executable, "-m", *module.split()],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


# A bad value of a setting that all processes have, and what the process that meets it says.
SHARED = (
    ("MOODFOOD_TRAINER_PORT", "abc", "use a whole number from 0 to 65535"),
    ("MOODFOOD_LOG_LEVEL", "LOUD", "use DEBUG, INFO, WARNING, ERROR or CRITICAL"),
    ("MOODFOOD_DATA_DIR", "/nowhere/data", "there is no folder /nowhere to make it in; name an existing one"),
)
# The same for a setting of one service.
OF_ONE_SERVICE = {
    "services.inference": (("MOODFOOD_KEEP_WARM_SECONDS", "soon", "use a number of at least 0"),),
    "services.trainer": (
        ("MOODFOOD_RETENTION_DAYS", "-1", "use a whole number of at least 0"),
        ("MOODFOOD_TRAINER_METRICS_PORT", "70000", "use a whole number from 0 to 65535"),
        ("MOODFOOD_RETRAIN_ON_DRIFT", "perhaps", "use true or false"),
    ),
    "services.gateway": (("MOODFOOD_QUERY_DEADLINE_SECONDS", "0", "use a number above 0"),),
    "services.cli status": (),
}


@pytest.mark.parametrize("module", OF_ONE_SERVICE)
def test_every_process_tells_all_bad_settings_in_one_line(tmp_path: Path, module: str) -> None:
    bad = (*SHARED, *OF_ONE_SERVICE[module])
    finished = started(module, tmp_path, **{variable: value for variable, value, _ in bad})
    (line,) = finished.stderr.splitlines()
    assert finished.returncode == 1
    told = line.removeprefix("moodfood: ")
    for variable, value, allowed in bad:
        assert f"{variable} is '{value}'; {allowed}" in told
        told = told.replace(f"{variable} is '{value}'; {allowed}", "")
    assert set(told) <= set("; ")


@pytest.mark.parametrize("module", ["services.inference", "services.trainer", "services.cli up"])
def test_two_taxonomies_are_one_line_that_names_them(tmp_path: Path, module: str) -> None:
    (tmp_path / "data" / "taxonomy").mkdir(parents=True)
    for name in ("a.json", "b.json"):
        (tmp_path / "data" / "taxonomy" / name).write_text('{"labels": []}')
    finished = started(module, tmp_path)
    assert finished.returncode == 1
    (line,) = finished.stderr.splitlines()
    assert "a.json and b.json; keep one taxonomy there" in line


def test_several_bad_settings_are_told_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOODFOOD_TRAINER_PORT", "abc")
    monkeypatch.setenv("MOODFOOD_MODEL", "../mine")
    with pytest.raises(BadSetting, match=r"MOODFOOD_TRAINER_PORT is 'abc'.*; MOODFOOD_MODEL is '../mine'"):
        load_settings(SharedSettings)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://bucket/models", "https://bucket/models"),
        ("s3://", "s3://"),
        ("s3://bucket/../other", "s3://bucket/../other"),
        ("s3://key:hush-hush@bucket/models", "s3://***@bucket/models"),
    ],
)
def test_address_of_no_bucket_is_told_without_its_password(
    monkeypatch: pytest.MonkeyPatch, url: str, told: str
) -> None:
    monkeypatch.setenv("MOODFOOD_MODELS_URL", url)
    with pytest.raises(BadSetting) as raised:
        load_settings(SharedSettings)
    assert f"MOODFOOD_MODELS_URL is '{told}'; use s3://bucket/prefix" in str(raised.value)
    assert "hush-hush" not in str(raised.value)


def test_bucket_is_used_without_a_slash_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOODFOOD_MODELS_URL", "s3://my-bucket.eu/team/models/")
    assert load_settings(SharedSettings).models_url == "s3://my-bucket.eu/team/models"


def test_an_empty_variable_means_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOODFOOD_TRAINER_PORT", "")
    monkeypatch.setenv("MOODFOOD_HOST", "")
    assert load_settings(SharedSettings).trainer == "127.0.0.1:50052"


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_ipv6_address_stands_in_brackets(host: str) -> None:
    settings = TrainerSettings(host=host)
    assert (settings.inference, settings.trainer, settings.targets) == ("[::1]:50051", "[::1]:50052", ("[::1]:50051",))
    assert address("localhost", 1) == "localhost:1"


def test_a_folder_without_labels_and_examples_gets_the_shipped_ones(tmp_path: Path) -> None:
    settings = TrainerSettings(data_dir=tmp_path)
    assert settings.taxonomy_path == SHIPPED_DATA / "taxonomy" / "mood_food_taxonomy.json"
    assert settings.catalogue_path == SHIPPED_DATA / "catalogue" / "dishes.json"
    assert settings.seed_files == (SHIPPED_DATA / "examples" / "train" / "mood_food.jsonl",)


def test_a_folder_with_examples_is_complete_by_itself(tmp_path: Path) -> None:
    train = tmp_path / "examples" / "train"
    train.mkdir(parents=True)
    for name in ("tickets.csv", "more.jsonl", "notes.txt"):
        (train / name).write_text("")
    settings = TrainerSettings(data_dir=tmp_path)
    assert (settings.taxonomy_path, settings.catalogue_path) == (None, None)
    assert (train / "more.jsonl", train / "tickets.csv") == settings.seed_files


def test_a_folder_with_a_taxonomy_is_complete_by_itself(tmp_path: Path) -> None:
    (tmp_path / "taxonomy").mkdir()
    (tmp_path / "taxonomy" / "tickets.json").write_text(json.dumps({"labels": []}))
    settings = TrainerSettings(data_dir=tmp_path)
    assert tmp_path / "taxonomy" / "tickets.json" == settings.taxonomy_path
    assert (settings.catalogue_path, settings.seed_files) == (None, ())


def test_own_dishes_are_used_with_the_shipped_labels(tmp_path: Path) -> None:
    (tmp_path / "catalogue").mkdir()
    (tmp_path / "catalogue" / "dishes.json").write_text("{}")
    settings = TrainerSettings(data_dir=tmp_path)
    assert tmp_path / "catalogue" / "dishes.json" == settings.catalogue_path
    assert settings.taxonomy_path == SHIPPED_DATA / "taxonomy" / "mood_food_taxonomy.json"
