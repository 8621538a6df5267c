"""Models as versions: their files by hash, their stages, and a line for every change of a stage."""

from alembic import op

from rap_analyzer.migrations.policies import guard

revision = "0011"
down_revision = "0010"

# One index is read four times a second, and keeps a promise: at most one version of a name serves, and one is on trial.
TABLES = """
CREATE TABLE model_files (
    tenant_id  text COLLATE "C" NOT NULL REFERENCES tenants,
    sha256     text COLLATE "C" NOT NULL,
    content    bytea NOT NULL CHECK (octet_length(content) BETWEEN 1 AND 33554432),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, sha256),
    CHECK (sha256 = encode(sha256(content), 'hex'))
);
ALTER TABLE model_files ALTER COLUMN content SET STORAGE EXTERNAL;

CREATE TABLE models (
    tenant_id      text COLLATE "C" NOT NULL,
    name           text COLLATE "C" NOT NULL CHECK (name ~ '^[a-z][a-z0-9-]{0,39}$'),
    version        integer NOT NULL CHECK (version > 0),
    kind           text COLLATE "C" NOT NULL CHECK (kind ~ '^[a-z][a-z0-9_-]{0,39}$'),
    schema_version smallint NOT NULL CHECK (schema_version > 0),
    sha256         text COLLATE "C" NOT NULL,
    bytes          integer NOT NULL,
    stage          text COLLATE "C" NOT NULL DEFAULT 'registered'
                   CHECK (stage IN ('registered', 'shadow', 'canary', 'serving', 'retired')),
    -- of a canary: the share of listeners, and when it ends by itself
    percent        smallint NOT NULL DEFAULT 0 CHECK (percent BETWEEN 0 AND 100),
    until          timestamptz,
    -- which version was serving when this one took over: where a roll-back leads
    replaced       integer,
    metrics        jsonb NOT NULL DEFAULT '{}' CHECK (octet_length(metrics::text) <= 16384),
    data_from      timestamptz,
    data_until     timestamptz CHECK (data_until >= data_from),
    code_hash      text COLLATE "C" NOT NULL DEFAULT '' CHECK (length(code_hash) <= 100),
    card           text NOT NULL CHECK (length(card) BETWEEN 1 AND 16384),
    created_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, name, version),
    FOREIGN KEY (tenant_id, sha256) REFERENCES model_files,
    CHECK ((stage = 'canary') = (until IS NOT NULL))
);
CREATE UNIQUE INDEX models_live ON models (tenant_id, name, (stage = 'serving')) WHERE stage IN ('serving', 'shadow', 'canary');
CREATE UNIQUE INDEX models_once ON models (tenant_id, name, sha256, kind);
CREATE INDEX models_file ON models (tenant_id, sha256);

CREATE TABLE model_changes (
    tenant_id text COLLATE "C" NOT NULL,
    id        bigint GENERATED ALWAYS AS IDENTITY,
    name      text COLLATE "C" NOT NULL,
    version   integer NOT NULL,
    was       text COLLATE "C" NOT NULL,
    became    text COLLATE "C" NOT NULL,
    percent   smallint NOT NULL DEFAULT 0,
    why       text NOT NULL DEFAULT '' CHECK (length(why) <= 500),
    made_by   text NOT NULL DEFAULT '' CHECK (length(made_by) <= 100),
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, name, version) REFERENCES models
);
CREATE INDEX model_changes_of ON model_changes (tenant_id, name, version, id);
"""


def upgrade() -> None:
    op.execute(TABLES)
    guard("model_files", "models", "model_changes")
    op.execute("GRANT SELECT, INSERT ON model_files, models, model_changes TO rap_app")  # what was registered is never changed,
    op.execute("GRANT UPDATE (stage, percent, until, replaced) ON models TO rap_app")     # except for its stage


def downgrade() -> None:
    op.execute("DROP TABLE model_changes, models, model_files")
