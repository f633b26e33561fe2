"""Runs migrations on the connection that `services.trainer.database.migrate` opened."""

from alembic import context

from services.trainer.database.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=False,  # the caller's transaction holds all steps
)
context.run_migrations()
