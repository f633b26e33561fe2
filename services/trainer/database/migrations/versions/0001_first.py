"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

POSITION = sa.BigInteger().with_variant(sa.Integer, "sqlite")

_RUN_STATES = ("succeeded", "rejected", "failed", "cancelled", "skipped")


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "alias_moves",
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("generation", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("expected", sa.Integer(), nullable=False),
        sa.Column("action", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("model", "generation", name=op.f("pk_alias_moves")),
    )
    op.create_index("ix_alias_moves_model_state", "alias_moves", ["model", "state"], unique=False)
    op.create_table(
        "counters",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_counters")),
    )
    op.create_table(
        "drift_references",
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("generation", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("model", "version", "generation", name=op.f("pk_drift_references")),
    )
    op.create_table(
        "erasures",
        sa.Column("position", POSITION, autoincrement=False, nullable=False),
        sa.Column("queries_until", sa.BigInteger(), nullable=False),
        sa.Column("before", sa.BigInteger(), nullable=False),
        sa.Column("text_keys", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_erasures")),
    )
    op.create_index(op.f("ix_erasures_before"), "erasures", ["before"], unique=False)
    op.create_index(op.f("ix_erasures_queries_until"), "erasures", ["queries_until"], unique=False)
    op.create_table(
        "erased_queries",
        sa.Column("query_id", sa.String(length=128), nullable=False),
        sa.Column("erasure", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("query_id", name=op.f("pk_erased_queries")),
    )
    op.create_index(op.f("ix_erased_queries_erasure"), "erased_queries", ["erasure"], unique=False)
    op.create_table(
        "unfinished_erasures",
        sa.Column("erasure", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("erasure", "number", name=op.f("pk_unfinished_erasures")),
    )
    op.create_table(
        "experiments",
        sa.Column("experiment_id", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("running", sa.Boolean(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("experiment_id", name=op.f("pk_experiments")),
    )
    op.create_index("ix_experiments_model_started_at", "experiments", ["model", "started_at"], unique=False)
    op.create_index(
        "uq_experiments_running",
        "experiments",
        ["model"],
        unique=True,
        sqlite_where=sa.text("running"),
        postgresql_where=sa.text("running"),
    )
    op.create_table(
        "feedback",
        sa.Column("position", POSITION, autoincrement=False, nullable=False),
        sa.Column("feedback_id", sa.String(length=32), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("text_key", sa.String(length=32), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("query_id", sa.String(length=128), nullable=False),
        sa.Column("user_id", sa.String(length=128), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("request_id", sa.String(length=128), nullable=False),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_feedback")),
        sa.UniqueConstraint("feedback_id", name=op.f("uq_feedback_feedback_id")),
    )
    op.create_index(op.f("ix_feedback_at"), "feedback", ["at"], unique=False)
    op.create_index(
        "ix_feedback_query_id",
        "feedback",
        ["query_id"],
        unique=False,
        sqlite_where=sa.text("query_id <> ''"),
        postgresql_where=sa.text("query_id <> ''"),
    )
    op.create_index(op.f("ix_feedback_text_key"), "feedback", ["text_key"], unique=False)
    op.create_index(
        "ix_feedback_user_id",
        "feedback",
        ["user_id"],
        unique=False,
        sqlite_where=sa.text("user_id <> ''"),
        postgresql_where=sa.text("user_id <> ''"),
    )
    op.create_index(
        "uq_feedback_caller_request",
        "feedback",
        ["user_id", "request_id"],
        unique=True,
        sqlite_where=sa.text("request_id <> ''"),
        postgresql_where=sa.text("request_id <> ''"),
    )
    op.create_table(
        "history",
        sa.Column("position", POSITION, autoincrement=False, nullable=False),
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("action", sa.Integer(), nullable=False),
        sa.Column("to_version", sa.Integer(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_history")),
    )
    op.create_index(
        "ix_history_changes",
        "history",
        ["model", "generation"],
        unique=False,
        sqlite_where=sa.text("action <> 3"),
        postgresql_where=sa.text("action <> 3"),
    )
    op.create_index("ix_history_model_position", "history", ["model", "position"], unique=False)
    op.create_index("ix_history_model_to_version", "history", ["model", "to_version", "position"], unique=False)
    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("holder", sa.String(length=255), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "moved_files",
        sa.Column("path", sa.String(length=512), nullable=False),
        sa.Column("sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("path", name=op.f("pk_moved_files")),
    )
    op.create_table(
        "queries",
        sa.Column("position", POSITION, autoincrement=False, nullable=False),
        sa.Column("query_id", sa.String(length=128), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("text_key", sa.String(length=32), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("confidence", sa.Float(), nullable=False),
        sa.Column("second", sa.Float(), nullable=False),
        sa.Column("stage", sa.String(length=32), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("micros", sa.Integer(), nullable=False),
        sa.Column("experiment_id", sa.String(length=64), nullable=False),
        sa.Column("arm", sa.String(length=16), nullable=False),
        sa.Column("shadow_version", sa.Integer(), nullable=True),
        sa.Column("shadow_label", sa.Text(), nullable=True),
        sa.Column("shadow_confidence", sa.Float(), nullable=True),
        sa.Column("shadow_micros", sa.Integer(), nullable=True),
        sa.Column("shadow_error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_queries")),
        sa.UniqueConstraint("query_id", name=op.f("uq_queries_query_id")),
    )
    op.create_index(op.f("ix_queries_at"), "queries", ["at"], unique=False)
    op.create_index(
        "ix_queries_experiment_position",
        "queries",
        ["experiment_id", "position"],
        unique=False,
        sqlite_where=sa.text("experiment_id <> ''"),
        postgresql_where=sa.text("experiment_id <> ''"),
    )
    op.create_index(op.f("ix_queries_text_key"), "queries", ["text_key"], unique=False)
    op.create_index("ix_queries_version_at", "queries", ["version", "at"], unique=False)
    op.create_table(
        "review_decisions",
        sa.Column("item_id", sa.String(length=32), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("item_id", name=op.f("pk_review_decisions")),
    )
    op.create_table(
        "review_items",
        sa.Column("item_id", sa.String(length=32), nullable=False),
        sa.Column("reason", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("origin", sa.String(length=16), nullable=False),
        sa.Column("score", sa.Float(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("believed", sa.Text(), nullable=False),
        sa.Column("confidence", sa.Float(), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("query_id", sa.String(length=128), nullable=False),
        sa.PrimaryKeyConstraint("item_id", "reason", name=op.f("pk_review_items")),
    )
    op.create_index(op.f("ix_review_items_at"), "review_items", ["at"], unique=False)
    op.create_index("ix_review_items_origin_at", "review_items", ["origin", "at"], unique=False)
    op.create_index(op.f("ix_review_items_query_id"), "review_items", ["query_id"], unique=False)
    op.create_index("ix_review_items_reason_score", "review_items", ["reason", "score"], unique=False)
    op.create_table(
        "runs",
        sa.Column("run_id", sa.String(length=64), nullable=False),
        sa.Column("state", sa.Integer(), nullable=False),
        sa.Column("trigger", sa.Integer(), nullable=False),
        sa.Column("stage", sa.Integer(), nullable=False),
        sa.Column("percent", sa.Integer(), nullable=False),
        sa.Column("validate_only", sa.Boolean(), nullable=False),
        sa.Column("request_id", sa.String(length=128), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("heartbeat_at", sa.BigInteger(), nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_runs")),
    )
    op.create_index("ix_runs_state_validate_only_run_id", "runs", ["state", "validate_only", "run_id"], unique=False)
    op.create_index("ix_runs_trigger_started_at", "runs", ["trigger", "started_at"], unique=False)
    op.create_index(
        "uq_runs_request_id",
        "runs",
        ["request_id"],
        unique=True,
        sqlite_where=sa.text("request_id <> ''"),
        postgresql_where=sa.text("request_id <> ''"),
    )
    op.create_table(
        "schedules",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_schedules")),
    )
    op.create_table(
        "spools",
        sa.Column("spool_id", sa.String(length=64), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("erasure", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("spool_id", name=op.f("pk_spools")),
    )
    op.create_table(
        "versions",
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.String(length=64), nullable=False),
        sa.Column("snapshot_id", sa.String(length=32), nullable=False),
        sa.Column("manifest", sa.Text(), nullable=False),
        sa.Column("evaluation", sa.Text(), nullable=False),
        sa.Column("decision", sa.Text(), nullable=False),
        sa.Column("rehearsal", sa.Text(), nullable=True),
        sa.Column("deleted_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("model", "version", name=op.f("pk_versions")),
    )
    op.create_index(
        "ix_versions_there",
        "versions",
        ["model", "version"],
        unique=False,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.bulk_insert(
        sa.table("counters", sa.column("name", sa.String), sa.column("value", sa.BigInteger)),
        [{"name": name, "value": 0} for name in ("feedback", "queries", "erasures", "history")]
        + [{"name": f"runs_{state}", "value": 0} for state in _RUN_STATES],
    )
