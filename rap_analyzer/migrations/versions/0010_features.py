"""Values of features over time, each with two clocks: when it was true, and since when it could be known."""

from alembic import op

revision = "0010"
down_revision = "0009"

# A value of NULL is a value: from that moment on nothing is known. -1 stands for "not about a listener (a track)", so that one
# key and one index serve listeners, tracks, and pairs of both.
TABLES = """
CREATE TABLE feature_values (
    tenant_id   text COLLATE "C" NOT NULL,
    name        text COLLATE "C" NOT NULL CHECK (length(name) BETWEEN 1 AND 63),
    listener_id bigint NOT NULL DEFAULT -1 CHECK (listener_id >= -1),
    track_id    bigint NOT NULL DEFAULT -1 CHECK (track_id >= -1),
    time        timestamptz NOT NULL,
    created     timestamptz NOT NULL DEFAULT now(),
    value       double precision,
    many        bigint[] CHECK (cardinality(many) <= 256),
    PRIMARY KEY (tenant_id, name, listener_id, track_id, time, created),
    CHECK (num_nonnulls(value, many) <= 1)
);

-- What has been computed so far: per listener and per day, from how many events and by which definitions.
CREATE TABLE feature_marks (
    tenant_id text COLLATE "C" NOT NULL,
    mark      text COLLATE "C" NOT NULL CHECK (length(mark) <= 40),
    events    bigint NOT NULL DEFAULT 0 CHECK (events >= 0),
    version   text COLLATE "C" NOT NULL DEFAULT '' CHECK (length(version) <= 64),
    made      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, mark)
);
"""

GUARDED = "feature_values", "feature_marks"


def upgrade() -> None:
    op.execute(TABLES)
    for table in GUARDED:
        mine = "tenant_id = (SELECT current_setting('app.tenant_id', true))"
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY own_tenant ON {table} TO rap_app, rap_owner USING ({mine}) WITH CHECK ({mine})")
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON feature_values, feature_marks TO rap_app")


def downgrade() -> None:
    op.execute("DROP TABLE feature_values, feature_marks")
