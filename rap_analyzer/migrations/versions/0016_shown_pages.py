"""Pages that were served: the device they went to, and the chance of each place."""

from alembic import op

revision = "0016"
down_revision = "0015"

# `items` and `usual` have a track per place; `pool` holds the candidates that a shuffled page is drawn from, and `explore` the
# share of pages that are shuffled: with both, the chance of every track at every place can be worked out for any policy.
TABLE = """
CREATE TABLE shown_pages (
    tenant_id   text COLLATE "C" NOT NULL REFERENCES tenants,
    id          bigint GENERATED ALWAYS AS IDENTITY,
    time        timestamptz NOT NULL,
    listener_id bigint NOT NULL,
    device      text CHECK (length(device) BETWEEN 1 AND 20),
    occasion    smallint,
    ordered_by  text NOT NULL CHECK (length(ordered_by) <= 100),
    items       bigint[] NOT NULL CHECK (cardinality(items) BETWEEN 1 AND 100),
    usual       bigint[] NOT NULL CHECK (cardinality(usual) = cardinality(items)),
    pool        bigint[] NOT NULL CHECK (cardinality(pool) BETWEEN 1 AND 1000),
    explore     double precision NOT NULL CHECK (explore BETWEEN 0 AND 1),
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX shown_pages_of ON shown_pages (tenant_id, listener_id, time);
"""


def upgrade() -> None:
    op.execute(TABLE)
    mine = "tenant_id = (SELECT current_setting('app.tenant_id', true))"
    op.execute("ALTER TABLE shown_pages ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE shown_pages FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY own_tenant ON shown_pages TO rap_app, rap_owner USING ({mine}) WITH CHECK ({mine})")
    op.execute("SELECT claims.secure_table('shown_pages')")
    op.execute("GRANT SELECT, INSERT, DELETE ON shown_pages TO rap_app")  # never changed; old ones are deleted


def downgrade() -> None:
    op.execute("DROP TABLE shown_pages")
