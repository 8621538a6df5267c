"""Experiments by name, and who was exposed to which variant, once per unit."""

from alembic import op

revision = "0008"
down_revision = "0007"

# No foreign key from exposures to units: what an experiment assigns may be a listener, a session or an anonymous visitor.
TABLES = """
CREATE TABLE experiments (
    tenant_id  text COLLATE "C" NOT NULL REFERENCES tenants,
    name       text COLLATE "C" NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    definition jsonb NOT NULL CHECK (octet_length(definition::text) <= 16384),
    started_at timestamptz NOT NULL DEFAULT now(),
    ended_at   timestamptz CHECK (ended_at >= started_at),
    PRIMARY KEY (tenant_id, name)
);

CREATE TABLE exposures (
    tenant_id  text COLLATE "C" NOT NULL,
    experiment text COLLATE "C" NOT NULL,
    unit_id    text COLLATE "C" NOT NULL CHECK (length(unit_id) BETWEEN 1 AND 200),
    variant    text COLLATE "C" NOT NULL CHECK (length(variant) BETWEEN 1 AND 100),
    -- the chance with which this variant was chosen for this unit: without it no other policy can be judged by these rows
    propensity double precision NOT NULL CHECK (propensity > 0 AND propensity <= 1),
    first_seen timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, experiment, unit_id),
    FOREIGN KEY (tenant_id, experiment) REFERENCES experiments
);
"""

GUARDED = "experiments", "exposures"


def upgrade() -> None:
    op.execute(TABLES)
    for table in GUARDED:
        mine = "tenant_id = (SELECT current_setting('app.tenant_id', true))"
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY own_tenant ON {table} TO rap_app, rap_owner USING ({mine}) WITH CHECK ({mine})")
    op.execute("GRANT SELECT, INSERT, UPDATE ON experiments TO rap_app")
    op.execute("GRANT SELECT, INSERT, DELETE ON exposures TO rap_app")  # never changed: the first exposure counts


def downgrade() -> None:
    op.execute("DROP TABLE exposures, experiments")
