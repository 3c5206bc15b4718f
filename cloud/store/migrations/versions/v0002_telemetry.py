"""Telemetry: how far each stream is, chunks of samples, dead letters."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

ID = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")
NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create them."""
    counts = ("settled", "produced", "stored", "dropped", "lost", "dead", "duplicates")
    op.create_table(
        "telemetry_positions",
        sa.Column("node", ID, primary_key=True),
        sa.Column("epoch", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("stream", ID, primary_key=True),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in counts),
        sa.Column("ahead", sa.LargeBinary, nullable=False),
        sa.Column("grade", sa.String(16), nullable=False),
        sa.Column("first_at_unix_s", sa.Double, nullable=False),
        sa.Column("last_at_unix_s", sa.Double, nullable=False),
        sa.Column("held_chunks", sa.BigInteger, nullable=False),
        sa.Column("held_samples", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "telemetry_chunks",
        sa.Column("node", ID, primary_key=True),
        sa.Column("stream", ID, primary_key=True),
        sa.Column("wide", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("at_min_unix_s", sa.Double, primary_key=True),
        sa.Column("epoch", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("first_sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("end_sequence", sa.BigInteger, nullable=False),
        sa.Column("at_max_unix_s", sa.Double, nullable=False),
        sa.Column("samples", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "telemetry_letters",
        sa.Column("number", NUMBER, primary_key=True),
        sa.Column("node", ID, nullable=False),
        sa.Column("stream", ID, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("first_sequence", sa.BigInteger, nullable=False),
        sa.Column("end_sequence", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("at_unix_s", sa.Double, nullable=False),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    """Drop them, with all that they hold."""
    for table in ("telemetry_letters", "telemetry_chunks", "telemetry_positions"):
        op.drop_table(table)
