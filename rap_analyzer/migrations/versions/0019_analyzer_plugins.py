"""Which installed plugins a tenant has let in, what they were checked for, and how their last songs went."""

from alembic import op

from rap_analyzer.migrations.policies import guard

revision = "0019"
down_revision = "0017"

# recent: one letter per song that it was asked about, the newest last; x is a failure. source and code: what was checked.
TABLE = """
CREATE TABLE analyzer_plugins (
    tenant_id     text COLLATE "C" NOT NULL REFERENCES tenants,
    name          text COLLATE "C" NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    version       text COLLATE "C" NOT NULL CHECK (length(version) BETWEEN 1 AND 100),
    source        text NOT NULL CHECK (length(source) <= 300),
    code          text COLLATE "C" NOT NULL CHECK (code ~ '^[0-9a-f]{64}$'),
    analyzers     text[] NOT NULL CHECK (cardinality(analyzers) BETWEEN 1 AND 20),
    state         text COLLATE "C" NOT NULL DEFAULT 'listed' CHECK (state IN ('listed', 'quarantined')),
    why           text NOT NULL DEFAULT '' CHECK (length(why) <= 500),
    recent        text COLLATE "C" NOT NULL DEFAULT '' CHECK (recent ~ '^[.x]{0,20}$'),
    checks        jsonb NOT NULL CHECK (octet_length(checks::text) <= 16384),
    cost_ms       real NOT NULL CHECK (cost_ms >= 0),
    registered_at timestamptz NOT NULL DEFAULT now(),
    registered_by text NOT NULL DEFAULT '' CHECK (length(registered_by) <= 100),
    PRIMARY KEY (tenant_id, name)
);
"""


def upgrade() -> None:
    op.execute(TABLE)
    guard("analyzer_plugins")
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON analyzer_plugins TO rap_app")
    op.execute("SELECT claims.secure_table('analyzer_plugins')")


def downgrade() -> None:
    op.execute("DROP TABLE analyzer_plugins")
