import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.trainer.dataset.examples import Example
from services.trainer.dataset.files import BadLine, Format, read_file, written


def problems(content: bytes, file_format: Format) -> list[tuple[int, str]]:
    return [(row.line, row.problem) for row in read_file(content, file_format) if isinstance(row, BadLine)]


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1).filter(str.strip)
labels = st.lists(st.from_regex(r"[a-z_]{1,9}", fullmatch=True), unique=True, max_size=3)


@given(st.lists(st.tuples(texts, labels), max_size=5), st.sampled_from(Format))
def test_what_was_written_is_read_back(rows: list[tuple[str, list[str]]], file_format: Format) -> None:
    content = b"".join(written(((text, names, "feedback") for text, names in rows), file_format))
    read = [row[1] for row in read_file(content, file_format) if not isinstance(row, BadLine)]
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
