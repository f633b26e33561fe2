import subprocess
import sys
from pathlib import Path

import pytest

from services.trainer.errors import StorageFailed
from services.trainer.storage import append_lines, replace_file


def test_line_torn_by_a_crash_does_not_swallow_the_next(tmp_path: Path) -> None:
    path = tmp_path / "log"
    append_lines(path, ["one"])
    with path.open("a") as file:
        file.write('{"torn')
    append_lines(path, ["two"])
    assert path.read_text().splitlines() == ["one", '{"torn', "two"]


def test_replacing_a_file_leaves_no_temporary_behind(tmp_path: Path) -> None:
    path = tmp_path / "alias"
    replace_file(path, b"one")
    replace_file(path, b"two")
    assert (path.read_bytes(), [each.name for each in tmp_path.iterdir()]) == (b"two", ["alias"])


def test_folder_that_refuses_is_a_storage_failure(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(StorageFailed):
        append_lines(blocked / "log", ["x"])
    with pytest.raises(StorageFailed):
        replace_file(blocked / "alias", b"x")


def test_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    """A file size limit in a child process makes the kernel refuse the write, as a full disk does."""
    path = tmp_path / "log"
    append_lines(path, ["kept"])
    program = (
        "import resource, signal\n"
        "from pathlib import Path\n"
        "from services.trainer.storage import append_lines, replace_file\n"
        "from services.trainer.errors import StorageFailed\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "for write in (lambda p: append_lines(p, ['x' * 500]), lambda p: replace_file(p, b'x' * 500)):\n"
        "    try:\n"
        f"        write(Path({str(path)!r}))\n"
        "    except StorageFailed:\n"
        "        print('refused')\n"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout == "refused\nrefused\n"
    assert path.read_text() == "kept\n"
    assert [path] == list(tmp_path.iterdir())
