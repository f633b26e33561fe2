"""Which query records are to be deleted: those with one of some ids, and those that are older than a time."""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from moodfood.events.v1.events_pb2 import QueryRecord

# Inside a text the quotation marks are escaped, so this finds the field and nothing else.
_QUERY_ID = re.compile(rb'"query_id": ?"([^"\\]*)"')


@dataclass(frozen=True)
class Doomed:
    """The records to delete: those with one of the ids, and those answered before a time in UTC, if one is given."""

    query_ids: frozenset[str]
    before: datetime | None = None

    def has_record(self, record: QueryRecord) -> bool:
        """Say whether a record is to be deleted."""
        if record.query_id in self.query_ids:
            return True
        return self.before is not None and record.HasField("at") and record.at.ToDatetime(UTC) < self.before

    def has_line(self, line: bytes) -> bool:
        """Say whether a line of the query log is to be deleted. What is no query record never is."""
        named = _QUERY_ID.search(line)
        if named is None or (self.before is None and named[1].decode(errors="replace") not in self.query_ids):
            return False
        try:
            row = json.loads(line)
            if row["event"] != "query":
                return False
            at = datetime.fromisoformat(row["at"])
        except (ValueError, KeyError, TypeError):
            return False
        return row.get("query_id") in self.query_ids or (self.before is not None and at < self.before)
