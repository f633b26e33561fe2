"""The tables of the database. `migrations/` brings a database to this state; a test compares the two.

Times are in microseconds since 1970. A column named `record` holds a message as JSON: the proto owns its fields, and
the columns beside it are those that a query needs. A position is a number from `counters`, in the order of storing.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    literal_column,
    text,
)

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
metadata = MetaData(naming_convention=NAMES)

# On SQLite, a key of this type is the number of the row itself and needs no index of its own.
Position = BigInteger().with_variant(Integer, "sqlite")

# The empty text, written out in the statement. A database uses an index with a condition, such as `query_id <> ''`,
# only for statements that have the same condition without a parameter.
EMPTY: ColumnElement[str] = literal_column("''")

# Names of the counters.
FEEDBACK, QUERIES, ERASURES, HISTORY = "feedback", "queries", "erasures", "history"
# How many runs have ended in each state.
RUN_COUNTERS = ("runs_succeeded", "runs_rejected", "runs_failed", "runs_cancelled", "runs_skipped")
COUNTERS = (FEEDBACK, QUERIES, ERASURES, HISTORY, *RUN_COUNTERS)

counters = Table(
    "counters", metadata, Column("name", String(32), primary_key=True), Column("value", BigInteger, nullable=False)
)

# What people said, imported examples included: `source` tells them apart. `text_key` is a digest of the normalised
# text, so that texts which mean the same example can be found and counted.
feedback = Table(
    "feedback",
    metadata,
    Column("position", Position, primary_key=True, autoincrement=False),
    Column("feedback_id", String(32), nullable=False, unique=True),
    Column("at", BigInteger, nullable=False, index=True),
    Column("text", Text, nullable=False),
    Column("text_key", String(32), nullable=False, index=True),
    Column("labels", JSON, nullable=False),
    Column("query_id", String(128), nullable=False),
    Column("user_id", String(128), nullable=False),
    Column("source", String(16), nullable=False),
    Column("request_id", String(128), nullable=False),
)
Index("ix_feedback_query_id", feedback.c.query_id, sqlite_where=text("query_id <> ''"),
      postgresql_where=text("query_id <> ''"))  # fmt: skip
Index("ix_feedback_user_id", feedback.c.user_id, sqlite_where=text("user_id <> ''"),
      postgresql_where=text("user_id <> ''"))  # fmt: skip
# One request id of one caller is stored once. Another caller may use the same id.
Index("uq_feedback_caller_request", feedback.c.user_id, feedback.c.request_id, unique=True,
      sqlite_where=text("request_id <> ''"), postgresql_where=text("request_id <> ''"))  # fmt: skip

# Answered queries, as the replicas sent them. `second` is the confidence of the second label.
queries = Table(
    "queries",
    metadata,
    Column("position", Position, primary_key=True, autoincrement=False),
    Column("query_id", String(128), nullable=False, unique=True),
    Column("at", BigInteger, nullable=False, index=True),
    Column("text", Text, nullable=False),
    Column("text_key", String(32), nullable=False, index=True),
    Column("label", Text, nullable=False),
    Column("confidence", Float, nullable=False),
    Column("second", Float, nullable=False),
    Column("stage", String(32), nullable=False),
    Column("version", Integer, nullable=False),
    Column("micros", Integer, nullable=False),
    Column("experiment_id", String(64), nullable=False),
    Column("arm", String(16), nullable=False),
    # The shadow answer of an experiment; null without one.
    Column("shadow_version", Integer),
    Column("shadow_label", Text),
    Column("shadow_confidence", Float),
    Column("shadow_micros", Integer),
    Column("shadow_error", Text),
)
Index("ix_queries_version_at", queries.c.version, queries.c.at)
Index("ix_queries_experiment_position", queries.c.experiment_id, queries.c.position,
      sqlite_where=text("experiment_id <> ''"), postgresql_where=text("experiment_id <> ''"))  # fmt: skip

# How far each replica's spool was read. It is written in one transaction with the queries.
spools = Table(
    "spools",
    metadata,
    Column("spool_id", String(64), primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    # The last erasure that the replica of this spool has carried out.
    Column("erasure", BigInteger, nullable=False, server_default="0"),
)

# Items that wait for a person, one for each text and reason. `origin` is "query" or "training".
review_items = Table(
    "review_items",
    metadata,
    Column("item_id", String(32), primary_key=True),
    Column("reason", Integer, primary_key=True, autoincrement=False),
    Column("origin", String(16), nullable=False),
    Column("score", Float, nullable=False),
    Column("at", BigInteger, nullable=False, index=True),
    Column("text", Text, nullable=False),
    Column("believed", Text, nullable=False),
    Column("confidence", Float, nullable=False),
    Column("labels", JSON, nullable=False),
    Column("query_id", String(128), nullable=False, index=True),
)
Index("ix_review_items_reason_score", review_items.c.reason, review_items.c.score)
Index("ix_review_items_origin_at", review_items.c.origin, review_items.c.at)

# Texts whose items a person has decided. They are never shown again.
review_decisions = Table(
    "review_decisions",
    metadata,
    Column("item_id", String(32), primary_key=True),
    Column("at", BigInteger, nullable=False),
)

# What was deleted: replicas that were away, and runs that are going on, have to delete it as well. The row of what is
# too old is replaced by the next one of its kind.
erasures = Table(
    "erasures",
    metadata,
    Column("position", Position, primary_key=True, autoincrement=False),
    # Queries with one of these texts that were answered until this time were deleted; 0 when none were.
    Column("queries_until", BigInteger, nullable=False, index=True),
    # Queries that were answered before this time were deleted; 0 when texts were deleted.
    Column("before", BigInteger, nullable=False, index=True),
    # Digests of the deleted texts, never the texts.
    Column("text_keys", JSON, nullable=False),
)

# Queries that were deleted and may still come from a replica.
erased_queries = Table(
    "erased_queries",
    metadata,
    Column("query_id", String(128), primary_key=True),
    Column("erasure", BigInteger, nullable=False, index=True),
)

# Texts that are deleted from the database already and not yet from the files. Nobody else reads them.
unfinished_erasures = Table(
    "unfinished_erasures",
    metadata,
    Column("erasure", BigInteger, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("text", Text, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("run_id", String(64), primary_key=True),
    Column("state", Integer, nullable=False),
    Column("trigger", Integer, nullable=False),
    Column("stage", Integer, nullable=False),
    Column("percent", Integer, nullable=False),
    Column("validate_only", Boolean, nullable=False),
    Column("request_id", String(128), nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger),
    # When the trainer that carries it out last said that it is alive.
    Column("heartbeat_at", BigInteger, nullable=False),
    Column("cancel_requested", Boolean, nullable=False, server_default=text("false")),
    Column("record", Text, nullable=False),
)
Index("ix_runs_state_validate_only_run_id", runs.c.state, runs.c.validate_only, runs.c.run_id)
Index("ix_runs_trigger_started_at", runs.c.trigger, runs.c.started_at)
Index("uq_runs_request_id", runs.c.request_id, unique=True, sqlite_where=text("request_id <> ''"),
      postgresql_where=text("request_id <> ''"))  # fmt: skip

# The versions of each model and what gate and rehearsal said of them. `deleted_at` is null while the version is there.
# A row whose `manifest` is empty holds a number that was taken and has no version yet.
versions = Table(
    "versions",
    metadata,
    Column("model", String(128), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("created_at", BigInteger, nullable=False),
    Column("run_id", String(64), nullable=False),
    Column("snapshot_id", String(32), nullable=False),
    Column("manifest", Text, nullable=False),
    Column("evaluation", Text, nullable=False),
    Column("decision", Text, nullable=False),
    Column("rehearsal", Text),
    Column("deleted_at", BigInteger),
)
Index("ix_versions_there", versions.c.model, versions.c.version,
      sqlite_where=text("deleted_at IS NULL"), postgresql_where=text("deleted_at IS NULL"))  # fmt: skip

# Every promotion, rollback and refusal. `record` is a HistoryEntry.
history = Table(
    "history",
    metadata,
    Column("position", Position, primary_key=True, autoincrement=False),
    Column("model", String(128), nullable=False),
    Column("action", Integer, nullable=False),
    Column("to_version", Integer, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("record", Text, nullable=False),
)
Index("ix_history_model_position", history.c.model, history.c.position)
Index("ix_history_model_to_version", history.c.model, history.c.to_version, history.c.position)
# Of the entries that changed or confirmed the champion; 3 is HISTORY_ACTION_REFUSED.
Index("ix_history_changes", history.c.model, history.c.generation,
      sqlite_where=text("action <> 3"), postgresql_where=text("action <> 3"))  # fmt: skip

# Moves of the champion alias. A generation is given away once, so of two trainers only one can take it.
alias_moves = Table(
    "alias_moves",
    metadata,
    Column("model", String(128), primary_key=True),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("version", Integer, nullable=False),
    Column("expected", Integer, nullable=False),
    # A HistoryAction.
    Column("action", Integer, nullable=False),
    # "pending", "done" or "taken_back".
    Column("state", String(16), nullable=False),
    Column("at", BigInteger, nullable=False),
)
Index("ix_alias_moves_model_state", alias_moves.c.model, alias_moves.c.state)

# `record` is an Experiment.
experiments = Table(
    "experiments",
    metadata,
    Column("experiment_id", String(64), primary_key=True),
    Column("model", String(128), nullable=False),
    Column("running", Boolean, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("record", Text, nullable=False),
)
Index("ix_experiments_model_started_at", experiments.c.model, experiments.c.started_at)
Index("uq_experiments_running", experiments.c.model, unique=True, sqlite_where=text("running"),
      postgresql_where=text("running"))  # fmt: skip

# One row for each schedule. `record` is a ScheduleState; `revision` grows with every change (compare-and-set).
schedules = Table(
    "schedules",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("revision", Integer, nullable=False),
    Column("record", Text, nullable=False),
)

# The traffic right after a promotion. `record` is a TrafficRecord.
drift_references = Table(
    "drift_references",
    metadata,
    Column("model", String(128), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("record", Text, nullable=False),
)

# What one trainer at a time may do. `token` grows with every holder.
leases = Table(
    "leases",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("holder", String(255), nullable=False),
    Column("token", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)

# What `moodfood migrate` has read already, so that a second call reads nothing twice.
moved_files = Table(
    "moved_files",
    metadata,
    Column("path", String(512), primary_key=True),
    Column("sha256", LargeBinary(32), nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
)
