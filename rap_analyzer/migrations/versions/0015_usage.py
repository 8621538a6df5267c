"""How many calls were answered: totals per tenant, day, key and endpoint, one row for each process that counted."""

from alembic import op

revision = "0015"
down_revision = "0014"

# calls is how many the writer has counted so far, and never a difference: writing it twice changes nothing.
TABLE = """
CREATE TABLE usage_counts (
    tenant_id text COLLATE "C" NOT NULL REFERENCES tenants,
    day       date NOT NULL,
    subject   text COLLATE "C" NOT NULL CHECK (length(subject) <= 100),
    endpoint  text COLLATE "C" NOT NULL CHECK (length(endpoint) <= 200),
    writer    text COLLATE "C" NOT NULL CHECK (writer ~ '^[0-9a-f]{16}$'),
    calls     bigint NOT NULL CHECK (calls > 0),
    PRIMARY KEY (tenant_id, day, subject, endpoint, writer)
);
ALTER TABLE usage_counts ENABLE ROW LEVEL SECURITY;
ALTER TABLE usage_counts FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON usage_counts TO rap_app, rap_owner USING (tenant_id = (SELECT current_setting('app.tenant_id', true)))
    WITH CHECK (tenant_id = (SELECT current_setting('app.tenant_id', true)));
SELECT claims.secure_table('usage_counts');
GRANT SELECT, INSERT, UPDATE (calls) ON usage_counts TO rap_app;
"""


def upgrade() -> None:
    op.execute(TABLE)


def downgrade() -> None:
    op.execute("DROP TABLE usage_counts")
