"""The moves of the champion alias, one row for each, and the generations that they have taken."""

import contextlib
from dataclasses import dataclass
from typing import Any

from moodfood.registry.v1 import manifest_pb2 as pb
from sqlalchemy import ColumnElement, Connection, Row, func, select, update
from sqlalchemy.exc import IntegrityError

from services.trainer.database.database import Database
from services.trainer.database.tables import alias_moves
from services.trainer.errors import PromotionInProgress

PENDING, DONE, TAKEN_BACK = "pending", "done", "taken_back"


@dataclass(frozen=True)
class PendingMove:
    """A move that has begun and has not ended. `version` is 0 when it only skips generations."""

    version: int
    generation: int


class Moves:
    """The moves of one model. Every method raises StorageFailed and blocks."""

    def __init__(self, database: Database, model: str) -> None:
        self._database = database
        self._model = model

    def highest_generation(self) -> int:
        """Return the highest generation that a move has taken; 0 before the first."""
        with self._database.read() as connection:
            return connection.scalar(select(func.max(alias_moves.c.generation)).where(self._of_model())) or 0

    def begin(self, generation: int, version: int, expected: int, action: "pb.HistoryAction.ValueType") -> None:
        """Take a generation for a move. Raises PromotionInProgress when it is taken."""
        row = {"model": self._model, "generation": generation, "version": version, "expected": expected}
        try:
            with self._database.write() as connection:
                connection.execute(
                    alias_moves.insert().values(**row, action=action, state=PENDING, at=func.now_micros())
                )
        except IntegrityError as error:
            raise PromotionInProgress from error

    def skip_to(self, generation: int) -> None:
        """Begin a move that only takes a generation, unless another trainer has just done the same."""
        with contextlib.suppress(PromotionInProgress):
            self.begin(generation, 0, 0, pb.HISTORY_ACTION_REASSERTED)

    def pending(self) -> PendingMove | None:
        """Return the newest move that has begun and has not ended; None when there is none."""
        query = select(alias_moves).where(self._of_model(), alias_moves.c.state == PENDING)
        with self._database.read() as connection:
            row = connection.execute(query.order_by(alias_moves.c.generation.desc()).limit(1)).one_or_none()
        return None if row is None else PendingMove(row.version, row.generation)

    def find(self, alias: pb.ChampionAlias) -> "Row[Any] | None":
        """Return the row of the move that led to an alias."""
        query = select(alias_moves).where(
            self._of_model(), alias_moves.c.generation == alias.generation, alias_moves.c.version == alias.version
        )
        with self._database.read() as connection:
            return connection.execute(query).one_or_none()

    def end(self, connection: Connection, generation: int) -> None:
        """Note that a move is done. Older ones that did not end have been overtaken by it."""
        connection.execute(
            update(alias_moves).where(self._of_model(), alias_moves.c.generation == generation).values(state=DONE)
        )
        self._take_back(connection, generation)

    def take_back(self, until: int) -> None:
        """Note that the pending moves up to a generation will never be finished."""
        with self._database.write() as connection:
            self._take_back(connection, until)

    def _take_back(self, connection: Connection, until: int) -> None:
        connection.execute(
            update(alias_moves)
            .where(self._of_model(), alias_moves.c.state == PENDING, alias_moves.c.generation <= until)
            .values(state=TAKEN_BACK)
        )

    def _of_model(self) -> ColumnElement[bool]:
        return alias_moves.c.model == self._model
