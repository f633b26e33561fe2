"""The rows of a snapshot as columns of a Parquet file. Only this module knows Parquet; import it where it is needed.

The library takes 60 MB of memory. A trainer that serves needs it only when somebody looks into a snapshot, so the other
modules import this one inside their functions.
"""

import contextlib
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from services.trainer.dataset.examples import Example

ROWS_AT_ONCE = 50_000
_SCHEMA = pa.schema(
    [("part", pa.string()), ("text", pa.string()), ("labels", pa.list_(pa.string())), ("source", pa.string())]
)
# Columns with few different values.
_REPETITIVE = ["part", "labels.list.element", "source"]

# The part of an example, and the example.
Row = tuple[str, Example]


class TableDamaged(Exception):
    """The content of a file is not the table of a snapshot."""


def write_table(file: BinaryIO, rows: Iterable[Row]) -> None:
    """Write rows to an empty file, ROWS_AT_ONCE at a time."""
    remaining = iter(rows)
    with parquet.ParquetWriter(
        file, _SCHEMA, compression="zstd", use_dictionary=_REPETITIVE, write_statistics=False
    ) as writer:
        while chunk := list(islice(remaining, ROWS_AT_ONCE)):
            columns = {
                "part": [part for part, _ in chunk],
                "text": [example.text for _, example in chunk],
                "labels": [example.labels for _, example in chunk],
                "source": [example.source for _, example in chunk],
            }
            writer.write_table(pa.table(columns, schema=_SCHEMA))


def read_table(file: BinaryIO) -> Iterator[Row]:
    """Yield the rows of a file. Equal labels and names are one object in memory. Raises TableDamaged."""
    labels_seen: dict[tuple[str, ...], tuple[str, ...]] = {}
    names: dict[str, str] = {}
    with _damage_told():
        for batch in parquet.ParquetFile(file).iter_batches(ROWS_AT_ONCE, columns=_SCHEMA.names, use_threads=False):
            columns = (column.to_pylist() for column in batch.columns)
            for part, text, labels, source in zip(*columns, strict=True):
                carried = tuple(labels)
                carried = labels_seen.setdefault(carried, carried)
                yield names.setdefault(part, part), Example(text, carried, names.setdefault(source, source))


def contains_text(file: BinaryIO, texts: Collection[str], sources: Collection[str]) -> bool:
    """Say whether a file has an example with one of these texts from one of these sources. Raises TableDamaged."""
    # Half of a surrogate pair is in no snapshot, and the library refuses it.
    wanted = pa.array([text.encode(errors="replace") for text in texts], pa.string())
    from_sources = pa.array(list(sources), pa.string())
    with _damage_told():
        for batch in parquet.ParquetFile(file).iter_batches(
            ROWS_AT_ONCE, columns=["text", "source"], use_threads=False
        ):
            is_wanted = pc.is_in(batch["text"], value_set=wanted)
            if pc.any(pc.and_(is_wanted, pc.is_in(batch["source"], value_set=from_sources))).as_py():
                return True
    return False


@contextlib.contextmanager
def _damage_told() -> Iterator[None]:
    """Turn what the library says of a damaged file into TableDamaged; what the system refuses stays an OSError."""
    try:
        yield
    except (pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise TableDamaged from error
    except OSError as error:
        # The library has no other exception for a page that cannot be decompressed; the system's have a number.
        if error.errno is not None:
            raise
        raise TableDamaged from error
