"""Measure what the trainer's store costs as it grows from 10^3 to 10^6 rows, on SQLite and on PostgreSQL.

    .venv/bin/python -m benchmarks.store [sqlite] [postgresql] [files]

Measures the named parts, all without a name; each takes a few minutes. What was measured is kept in
docs/benchmarks/store.json, from which store.md and store.png are written. Ends with 1 when a call that has to cost the
same however much is stored takes more than MOST_GROWTH times as long with 10^6 rows as with 10^3.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path

from benchmarks.store_measurements import Cost, Measured, measure_in_process
from benchmarks.store_page import list_grown, write_page
from benchmarks.store_plot import draw
from benchmarks.store_rows import fill
from services.trainer.database.database import Database, file_url
from services.trainer.database.migrate import migrate
from tests.databases import running_postgres

PAGES = Path(__file__).resolve().parent.parent / "docs" / "benchmarks"
SIZES = (1_000, 10_000, 100_000, 1_000_000)
SQLITE, POSTGRESQL, FILES = PARTS = ("sqlite", "postgresql", "files")


@contextmanager
def open_database(kind: str, folder: Path) -> Iterator[str]:
    """Yield the URL of an empty database that survives a loss of power. The server has the memory of a small one."""
    if kind == SQLITE:
        yield file_url(folder / "store.db")
        return
    with running_postgres(options="-c shared_buffers=1GB -c max_wal_size=4GB") as server:
        yield server.url(server.create())


def measure_database(kind: str) -> Measured:
    """Measure each size of one database, which grows."""
    measured: Measured = {}
    with tempfile.TemporaryDirectory() as folder, open_database(kind, Path(folder)) as url:
        former = 0
        for size in SIZES:
            with closing(Database(url)) as database:
                migrate(database)
                fill(database, former, size)
            former = size
            measured[size] = {**measure_in_process("calls", url), **measure_in_process("reading", url)}
            print(f"{kind}: measured {size:,} rows", file=sys.stderr)
        measured[SIZES[-1]] |= measure_in_process("import", url)
    return measured


def main() -> None:
    """Measure, write the page and the picture, and compare with the limit."""
    results = PAGES / "store.json"
    stored = json.loads(results.read_text()) if results.exists() else {}
    for part in sys.argv[1:] or PARTS:
        measured = (
            {size: measure_in_process("files", "", str(size)) for size in SIZES}
            if part == FILES
            else measure_database(part)
        )
        stored[part] = {size: {name: asdict(cost) for name, cost in costs.items()} for size, costs in measured.items()}
        results.write_text(json.dumps(stored, indent=1) + "\n")
    parts = {
        part: {int(size): {name: Cost(**cost) for name, cost in costs.items()} for size, costs in sizes.items()}
        for part, sizes in stored.items()
    }
    page = write_page(parts)
    (PAGES / "store.md").write_text(page)
    draw(PAGES / "store.png", parts)
    print(page)
    sys.exit(1 if list_grown(parts) else 0)


if __name__ == "__main__":
    main()
