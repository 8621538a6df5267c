"""Jobs: work that was accepted, with its state; uploads, what analyses found, and a line for every effect."""

from alembic import op

revision = "0004"
down_revision = "0003"

TABLES = """
CREATE TABLE uploads (
    tenant_id  text COLLATE "C" NOT NULL REFERENCES tenants,
    sha256     text COLLATE "C" NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    name       text NOT NULL CHECK (length(name) <= 200),
    content    bytea NOT NULL CHECK (octet_length(content) <= 67108864),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, sha256)
);
-- compressed already: do not try again
ALTER TABLE uploads ALTER COLUMN content SET STORAGE EXTERNAL;

CREATE TABLE jobs (
    tenant_id    text COLLATE "C" NOT NULL REFERENCES tenants,
    id           uuid NOT NULL DEFAULT gen_random_uuid(),
    kind         text COLLATE "C" NOT NULL,
    version      smallint NOT NULL DEFAULT 1,
    queue        text COLLATE "C" NOT NULL CHECK (queue IN ('interactive', 'bulk')),
    -- the same work has the same key: asked for twice, it is done once
    key          text COLLATE "C" NOT NULL,
    payload      jsonb NOT NULL DEFAULT '{}' CHECK (octet_length(payload::text) <= 65536),
    state        text COLLATE "C" NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'running', 'done', 'dead')),
    attempt      smallint NOT NULL DEFAULT 0,
    attempts     smallint NOT NULL CHECK (attempts > 0),
    run_after    timestamptz NOT NULL DEFAULT now(),
    published_at timestamptz,
    lease_until  timestamptz CHECK ((state = 'running') = (lease_until IS NOT NULL)),
    worker       text,
    progress     real NOT NULL DEFAULT 0 CHECK (progress BETWEEN 0 AND 1),
    reason       text,
    result       jsonb CHECK (octet_length(result::text) <= 1048576),
    request_id   text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    started_at   timestamptz,
    ended_at     timestamptz,
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, key)
);
CREATE INDEX jobs_due ON jobs (queue, run_after) WHERE state = 'waiting';
CREATE INDEX jobs_leased ON jobs (lease_until) WHERE state = 'running';
CREATE INDEX jobs_dead ON jobs (tenant_id, ended_at) WHERE state = 'dead';

CREATE TABLE analyses (
    tenant_id  text COLLATE "C" NOT NULL REFERENCES tenants,
    sha256     text COLLATE "C" NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    analyzer   text COLLATE "C" NOT NULL,
    version    text COLLATE "C" NOT NULL,
    value      jsonb,
    confidence real NOT NULL CHECK (confidence BETWEEN 0 AND 1),
    warnings   text[] NOT NULL DEFAULT '{}',
    made_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, sha256, analyzer, version)
);

-- No key on the job on purpose: if an effect could happen twice, this table would show it.
CREATE TABLE job_effects (
    tenant_id text COLLATE "C" NOT NULL,
    job_id    uuid NOT NULL,
    attempt   smallint NOT NULL,
    made_at   timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (tenant_id, job_id) REFERENCES jobs ON DELETE CASCADE
);
CREATE INDEX job_effects_of ON job_effects (tenant_id, job_id);
"""

GUARDED = "uploads", "jobs", "analyses", "job_effects"


def upgrade() -> None:
    op.execute(TABLES)
    for table in GUARDED:
        mine = "tenant_id = (SELECT current_setting('app.tenant_id', true))"
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY own_tenant ON {table} USING ({mine}) WITH CHECK ({mine})")
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON uploads, jobs, analyses TO rap_app")
    op.execute("GRANT SELECT, INSERT ON job_effects TO rap_app")
    op.execute("GRANT SELECT, UPDATE ON jobs TO rap_loader")  # the sweeper looks after every tenant's jobs


def downgrade() -> None:
    op.execute("DROP TABLE job_effects, analyses, jobs, uploads")
