"""What became of a request that may come again: one row per key, for a day."""

from alembic import op

from rap_analyzer.migrations.policies import guard

revision = "0017"
down_revision = "0016"

# seed: who creates something derives its id from it, so that a second run after a crash creates the same thing.
# holder: the run that may write the answer; one that was taken for dead and comes back writes nothing.
TABLE = """
CREATE TABLE idempotency_keys (
    tenant_id  text COLLATE "C" NOT NULL REFERENCES tenants,
    key        text COLLATE "C" NOT NULL CHECK (length(key) BETWEEN 1 AND 64),
    request    bytea NOT NULL CHECK (octet_length(request) = 32),
    seed       uuid NOT NULL,
    holder     uuid NOT NULL,
    held_until timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    status     smallint CHECK (status BETWEEN 200 AND 299),
    headers    jsonb CHECK (octet_length(headers::text) <= 8192),
    body       bytea CHECK (octet_length(body) <= 65536),
    PRIMARY KEY (tenant_id, key),
    CHECK ((status IS NULL) = (body IS NULL) AND (status IS NULL) = (headers IS NULL))
);
CREATE INDEX idempotency_keys_expiry ON idempotency_keys (tenant_id, expires_at);
"""


def upgrade() -> None:
    op.execute(TABLE)
    guard("idempotency_keys")
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON idempotency_keys TO rap_app")
    op.execute("SELECT claims.secure_table('idempotency_keys')")


def downgrade() -> None:
    op.execute("DROP TABLE idempotency_keys")
