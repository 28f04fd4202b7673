"""What several processes share, on PostgreSQL, and the oldest version that can work with a schema."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
oldest_compatible = "0008"
"""Earlier versions expect to be the only process: they void the leases of others when they start."""

_CREATE_ON_POSTGRESQL = (
    "CREATE SEQUENCE reply_numbers",
    "SELECT setval('reply_numbers', max(reply_number)) FROM reply_parts HAVING count(*) > 0",
    "CREATE TABLE conversation_leases ("
    " user_id text NOT NULL, conversation_id text NOT NULL, turn_id text NOT NULL, expires_at bigint NOT NULL,"
    " waiting text NOT NULL DEFAULT '',"
    " CONSTRAINT pk_conversation_leases PRIMARY KEY (user_id, conversation_id)) WITH (fillfactor = 70)",
    "CREATE UNLOGGED TABLE live_turns ("
    " turn_id text NOT NULL, user_id text NOT NULL, conversation_id text NOT NULL, worker text NOT NULL,"
    " stop_when_left boolean NOT NULL, accepted boolean NOT NULL DEFAULT false,"
    ' stop text, "end" text, ended_at bigint,'
    " CONSTRAINT pk_live_turns PRIMARY KEY (turn_id))",
    "CREATE INDEX ix_live_turns_user_id ON live_turns (user_id, conversation_id)",
    "CREATE INDEX ix_live_turns_ended_at ON live_turns (ended_at)",
    "CREATE INDEX ix_live_turns_worker ON live_turns (worker) WHERE stop IS NOT NULL AND ended_at IS NULL",
    "CREATE UNLOGGED TABLE turn_events (turn_id text NOT NULL, first integer NOT NULL, deltas text NOT NULL,"
    " CONSTRAINT pk_turn_events PRIMARY KEY (turn_id, first))",
    "CREATE UNLOGGED TABLE turn_readers (turn_id text NOT NULL, worker text NOT NULL, expires_at bigint NOT NULL,"
    " CONSTRAINT pk_turn_readers PRIMARY KEY (turn_id, worker))",
)
_DROP_ON_POSTGRESQL = (
    "DROP TABLE turn_readers, turn_events, live_turns, conversation_leases",
    "DROP SEQUENCE reply_numbers",
)


def upgrade() -> None:
    op.create_table("schema_compatibility", sa.Column("oldest_version", sa.Text, nullable=False))
    op.execute(sa.text("INSERT INTO schema_compatibility VALUES (:version)").bindparams(version=oldest_compatible))
    _on_postgresql(_CREATE_ON_POSTGRESQL)


def downgrade() -> None:
    _on_postgresql(_DROP_ON_POSTGRESQL)
    op.drop_table("schema_compatibility")


def _on_postgresql(statements: tuple[str, ...]) -> None:
    if op.get_bind().dialect.name == "postgresql":
        for statement in statements:
            op.get_bind().exec_driver_sql(statement)
