"""Finds the text of a logged query by its id, reading only what was appended to the query log since last time."""

import json
from collections import OrderedDict
from pathlib import Path

MAX_QUERIES = 200_000


class QueryIndex:
    """Query ids and texts of the newest records. Not thread-safe: call it from one thread at a time."""

    def __init__(self, query_log: Path) -> None:
        self._query_log = query_log
        self._texts: OrderedDict[str, str] = OrderedDict()
        self._inode = -1
        self._offset = 0

    def text_of(self, query_id: str) -> str | None:
        """Return the text of a query, or None if the log does not hold it (yet)."""
        if query_id not in self._texts:
            self._read_on()
        return self._texts.get(query_id)

    def _read_on(self) -> None:
        try:
            state = self._query_log.stat()
        except OSError:
            return
        if state.st_ino != self._inode or state.st_size < self._offset:
            self._read_rotated()
            self._inode, self._offset = state.st_ino, 0
        self._offset = self._read(self._query_log, self._offset)

    def _read_rotated(self) -> None:
        """Read the files rotated away, oldest first: the rest of the one read before may be among them."""
        rotated = self._query_log.parent.glob(f"{self._query_log.name}.[0-9]*")
        for path in sorted(rotated, key=lambda each: int(each.suffix[1:]), reverse=True):
            self._read(path, 0)

    def _read(self, path: Path, offset: int) -> int:
        try:
            with path.open("rb") as file:
                file.seek(offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    offset += len(line)
                    self._remember(line)
        except OSError:
            pass
        return offset

    def _remember(self, line: bytes) -> None:
        try:
            record = json.loads(line)
            if record["event"] == "query":
                self._texts[str(record["query_id"])] = str(record["text"])
        except (ValueError, KeyError, TypeError):
            return
        if len(self._texts) > MAX_QUERIES:
            self._texts.popitem(last=False)
