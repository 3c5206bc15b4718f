"""Replicated keys: the keys, the writes on their way, what is known of each node."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

ID = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")
NAME = sa.String(256).with_variant(sa.String(256, collation="C"), "postgresql")


def upgrade() -> None:
    """Create them."""
    op.create_table(
        "sync_keys",
        sa.Column("name", NAME, primary_key=True),
        sa.Column("record", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "sync_tasks",
        sa.Column("id", NAME, primary_key=True),
        sa.Column("task", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "sync_nodes",
        sa.Column("node", ID, primary_key=True),
        sa.Column("memory", sa.LargeBinary, nullable=False),
    )


def downgrade() -> None:
    """Drop them, with all that they hold."""
    for table in ("sync_nodes", "sync_tasks", "sync_keys"):
        op.drop_table(table)
