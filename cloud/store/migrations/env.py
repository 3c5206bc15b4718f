"""Alembic runs this file itself, for each migration run, with the connection that it was handed."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    # SQLite can roll DDL back too, once the driver leaves transactions to us: see cloud.store.engine.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
