import pytest
from sqlalchemy.exc import IntegrityError

from services.trainer.database.database import Database
from services.trainer.database.engine import read_url
from services.trainer.database.tables import review_items
from services.trainer.errors import BrokenData
from tests.query_records import keep, make_record


def test_what_people_said_is_in_no_message_of_the_database(database: Database) -> None:
    keep(database, make_record("q1", "anna one", stage="keyword"))
    with database.read() as connection:
        row = dict(connection.execute(review_items.select()).mappings().one())
    with pytest.raises(IntegrityError) as refusal, database.write() as connection:
        connection.execute(review_items.insert(), [row, row])
    assert "anna" not in str(refusal.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://anna:secret@host:port/db",
        "postgresql://[::1/db",
        "mysql://host/db",
        "moodfood.db",
        "",
        "sqlite://",
        "sqlite:///:memory:",
    ],
)
def test_address_that_cannot_be_one_of_a_database_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(BrokenData, match="MOODFOOD_DATABASE_URL") as refusal:
        read_url(url)
    assert "secret" not in str(refusal.value)
