"""Ranked lists that are made from the events offline: what is listened to together, next, by similar listeners, on an occasion."""

from alembic import op

revision = "0012"
down_revision = "0011"

# A row per table of lists, as NPZ: a process loads it whole. 64 MB are lists of fifty for a hundred thousand keys.
TABLES = """
CREATE TABLE candidate_lists (
    tenant_id text COLLATE "C" NOT NULL REFERENCES tenants,
    name      text COLLATE "C" NOT NULL CHECK (name ~ '^[a-z][a-z0-9_-]{0,30}$'),
    made      timestamptz NOT NULL DEFAULT now(),
    data      bytea NOT NULL CHECK (octet_length(data) <= 64000000),
    PRIMARY KEY (tenant_id, name)
);
ALTER TABLE candidate_lists ALTER COLUMN data SET STORAGE EXTERNAL
"""


def upgrade() -> None:
    op.execute(TABLES)
    mine = "tenant_id = (SELECT current_setting('app.tenant_id', true))"
    op.execute("ALTER TABLE candidate_lists ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE candidate_lists FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY own_tenant ON candidate_lists TO rap_app, rap_owner USING ({mine}) WITH CHECK ({mine})")
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON candidate_lists TO rap_app")


def downgrade() -> None:
    op.execute("DROP TABLE candidate_lists")
