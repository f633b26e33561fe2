from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.trainer.dataset.examples import Example
from services.trainer.dataset.files import BadLine, Format, encode_rows, parse_file, read_examples
from services.trainer.errors import BrokenData


def problems(content: bytes, file_format: Format) -> list[tuple[int, str]]:
    return [(row.line, row.problem) for row in parse_file(content, file_format) if isinstance(row, BadLine)]


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1).filter(str.strip)
labels = st.lists(st.from_regex(r"[a-z_]{1,9}", fullmatch=True), unique=True, max_size=3)


@given(st.lists(st.tuples(texts, labels), max_size=5), st.sampled_from(Format))
def test_what_was_written_is_read_back(rows: list[tuple[str, list[str]]], file_format: Format) -> None:
    content = b"".join(encode_rows(((text, names, "feedback") for text, names in rows), file_format))
    read = [row[1] for row in parse_file(content, file_format) if not isinstance(row, BadLine)]
    assert [Example(text, tuple(names)) for text, names in rows] == read


@pytest.mark.parametrize(
    ("content", "file_format", "expected"),
    [
        (b"", Format.JSON_LINES, []),
        (b'\n{"text": "a", "labels": []}\n\n', Format.JSON_LINES, []),
        (b'{"text": "a"}\nnonsense\n', Format.JSON_LINES, [(1, "labels"), (2, "is not JSON")]),
        (b'{"text": "a", "labels": ["b"]}\n\xff\n', Format.JSON_LINES, [(2, "is not UTF-8")]),
        (b"text;labels\na;b\n", Format.CSV, [(1, 'no column "text"')]),
        (b"", Format.CSV, [(1, 'no column "text"')]),
        (b"text,labels\nonly a text\n", Format.CSV, [(2, "fewer cells")]),
        (b'text,labels\n"never closed,a\n', Format.CSV, [(2, "is not CSV")]),
        (b"\xef\xbb\xbftext,labels,source\nsoup,a | b,x\n", Format.CSV, []),
    ],
)
def test_bad_line_is_named(content: bytes, file_format: Format, expected: list[tuple[int, str]]) -> None:
    found = problems(content, file_format)
    assert [line for line, _ in expected] == [line for line, _ in found]
    assert all(part in problem for (_, part), (_, problem) in zip(expected, found, strict=True))


def write(folder: Path, **files: str) -> Path:
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(content, encoding="utf-8")
    return folder


ONE_JSON, ONE_CSV = '{"text": "soup", "labels": ["hot"]}\n', "text,labels\ncake,sweet|rich\n"


def test_suffix_of_a_file_says_whether_it_is_csv(tmp_path: Path) -> None:
    write(tmp_path, a_jsonl=ONE_JSON, b_csv=ONE_CSV, c_txt=ONE_JSON)
    read, bad_lines = read_examples([tmp_path / "b.csv", tmp_path / "a.jsonl", tmp_path / "c.txt"])
    soup = Example("soup", ("hot",))
    assert ([Example("cake", ("sweet", "rich")), soup, soup], []) == (read, bad_lines)


def test_folder_stands_for_its_files_of_examples_sorted_by_name(tmp_path: Path) -> None:
    write(tmp_path, b_jsonl=ONE_JSON, a_csv=ONE_CSV, readme_txt="not examples")
    (tmp_path / "c.jsonl").mkdir()
    read, bad_lines = read_examples([tmp_path])
    assert ([example.text for example in read], bad_lines) == (["cake", "soup"], [])


def test_bad_lines_of_both_kinds_of_file_are_counted_and_end_nothing(tmp_path: Path) -> None:
    write(tmp_path, a_jsonl=f"nonsense\n{ONE_JSON}", b_csv=f"{ONE_CSV}too few cells\nbread,plain\n")
    read, bad_lines = read_examples([tmp_path])
    assert ([example.text for example in read], [bad.line for bad in bad_lines]) == (["soup", "cake", "bread"], [1, 3])


def test_broken_character_costs_no_example(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "caf\xe9 latte", "labels": ["hot"]}\n')
    read, bad_lines = read_examples([tmp_path / "a.jsonl"])
    assert ([Example("caf\ufffd latte", ("hot",))], []) == (read, bad_lines)


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BrokenData, match=r"there is no file .*nowhere\.jsonl"):
        read_examples([tmp_path / "nowhere.jsonl"])


def test_csv_file_without_its_columns_is_refused_instead_of_read_as_empty(tmp_path: Path) -> None:
    write(tmp_path, a_csv="query;intent\nsoup;hot\n")
    with pytest.raises(BrokenData, match=r'a\.csv: the header has no column "text"'):
        read_examples([tmp_path / "a.csv"])
