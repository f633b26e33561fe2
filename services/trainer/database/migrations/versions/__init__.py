"""The migrations. Make a new one with `alembic revision` and set NEWEST in ../../migrate.py."""
