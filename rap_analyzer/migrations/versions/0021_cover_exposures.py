"""Which cover of a track a listener was shown on a day."""

from alembic import op

from rap_analyzer.migrations.policies import guard

revision = "0021"
down_revision = "0020"

# One cover per listener, track and day: the first request that writes it decides, and all others show what it wrote. The id goes
# to the browser and comes back as the beginning of an event's id. No foreign keys, as for events.
TABLE = """
CREATE TABLE cover_exposures (
    tenant_id   text COLLATE "C" NOT NULL REFERENCES tenants,
    listener_id bigint NOT NULL CHECK (listener_id >= 0),
    day         date NOT NULL,
    track_id    bigint NOT NULL CHECK (track_id >= 0),
    exposure_id text COLLATE "C" NOT NULL CHECK (exposure_id ~ '^cover-[a-z]{1,20}-[0-9a-f]{16}$'),
    variant     text COLLATE "C" NOT NULL CHECK (length(variant) BETWEEN 1 AND 20),
    propensity  double precision NOT NULL CHECK (propensity > 0 AND propensity <= 1),
    taste       smallint NOT NULL CHECK (taste >= 0),
    PRIMARY KEY (tenant_id, listener_id, day, track_id),
    UNIQUE (tenant_id, exposure_id)
);
"""


def upgrade() -> None:
    op.execute(TABLE)
    guard("cover_exposures")
    op.execute("GRANT SELECT, INSERT, DELETE ON cover_exposures TO rap_app")  # never changed; old ones are deleted
    op.execute("SELECT claims.secure_table('cover_exposures')")


def downgrade() -> None:
    op.execute("DROP TABLE cover_exposures")
