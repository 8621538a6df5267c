"""Events of listeners, an outbox of those that nobody was told of yet, and what a like led to."""

from alembic import op

revision = "0007"
down_revision = "0006"

# No foreign keys on events: a key would lock the row of a popular track for each play, and history outlives what it is about.
# Listener and track are looked up by the statement that accepts an event.
TABLES = """
CREATE TABLE listeners (
    tenant_id text COLLATE "C" NOT NULL REFERENCES tenants,
    id        bigint NOT NULL CHECK (id >= 0),
    persona   text CHECK (length(persona) <= 40),
    joined    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id)
);

CREATE TABLE events (
    tenant_id   text COLLATE "C" NOT NULL,
    event_id    text COLLATE "C" NOT NULL CHECK (event_id ~ '^[!-~]{1,64}$'),
    time        timestamptz NOT NULL,
    received    timestamptz NOT NULL DEFAULT now(),
    listener_id bigint NOT NULL,
    session_id  text COLLATE "C" CHECK (session_id ~ '^[!-~]{1,64}$'),
    action      text COLLATE "C" NOT NULL CHECK (action IN ('search', 'impression', 'click', 'play', 'skip', 'like', 'save',
                                                            'playlist_add', 'share', 'export', 'rate')),
    track_id    bigint CHECK (track_id >= 0),
    position    smallint CHECK (position >= 0),
    PRIMARY KEY (tenant_id, event_id)
);
CREATE INDEX events_of ON events (tenant_id, listener_id, time);
CREATE INDEX events_received ON events USING brin (received);

-- A row per event that the stream does not hold for sure. Small and busy: vacuumed by count, not by share.
CREATE TABLE outbox (
    tenant_id    text COLLATE "C" NOT NULL,
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id     text COLLATE "C" NOT NULL,
    published_at timestamptz
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

-- The latest like decides, in whatever order likes arrive.
CREATE TABLE recommendations (
    tenant_id   text COLLATE "C" NOT NULL,
    listener_id bigint NOT NULL,
    event_id    text COLLATE "C" NOT NULL,
    time        timestamptz NOT NULL,
    made        timestamptz NOT NULL DEFAULT now(),
    hits        jsonb NOT NULL CHECK (octet_length(hits::text) <= 65536),
    PRIMARY KEY (tenant_id, listener_id),
    FOREIGN KEY (tenant_id, listener_id) REFERENCES listeners ON DELETE CASCADE
);
"""

GUARDED = "listeners", "events", "outbox", "recommendations"


def upgrade() -> None:
    op.execute(TABLES)
    for table in GUARDED:
        mine = "tenant_id = (SELECT current_setting('app.tenant_id', true))"
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY own_tenant ON {table} TO rap_app, rap_owner USING ({mine}) WITH CHECK ({mine})")
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON listeners, recommendations TO rap_app")
    op.execute("GRANT SELECT, INSERT, DELETE ON events TO rap_app")  # an event is never changed; a listener may ask to be forgotten
    op.execute("GRANT SELECT, INSERT ON outbox TO rap_app")
    op.execute("GRANT SELECT ON events TO rap_loader")  # the relay and a rebuild look after every tenant's events
    op.execute("GRANT SELECT, UPDATE, DELETE ON outbox TO rap_loader")


def downgrade() -> None:
    op.execute("DROP TABLE recommendations, outbox, events, listeners")
