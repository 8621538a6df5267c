"""API keys, of which only a hash is kept, and an audit log whose entries are sealed into a chain per tenant."""

from importlib import import_module

from alembic import op

revision = "0013"
down_revision = "0012"

give = import_module("rap_analyzer.migrations.versions.0003_words").give

TABLES = """
CREATE TABLE api_keys (
    tenant_id   text COLLATE "C" NOT NULL REFERENCES tenants,
    id          text COLLATE "C" NOT NULL CHECK (id ~ '^[0-9a-f]{12}$'),
    -- SHA-256 of the key. Slow hashes are for passwords: nobody guesses 256 random bits
    hash        bytea NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
    name        text NOT NULL CHECK (length(name) <= 100),
    scopes      text[] NOT NULL CHECK (cardinality(scopes) BETWEEN 1 AND 20),
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz NOT NULL,
    revoked_at  timestamptz,
    replaced_by text COLLATE "C",
    PRIMARY KEY (tenant_id, id)
);

-- tx is how a seal knows what is complete: every transaction below the oldest one under way has ended.
CREATE TABLE audit_entries (
    tenant_id  text COLLATE "C" NOT NULL REFERENCES tenants,
    id         bigint GENERATED ALWAYS AS IDENTITY,
    tx         xid8 NOT NULL DEFAULT pg_current_xact_id(),
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor      text NOT NULL CHECK (length(actor) <= 100),
    action     text COLLATE "C" NOT NULL CHECK (length(action) <= 100),
    target     text NOT NULL CHECK (length(target) <= 300),
    detail     jsonb NOT NULL DEFAULT '{}' CHECK (octet_length(detail::text) <= 4096),
    request_id text CHECK (length(request_id) <= 64),
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX audit_entries_tx ON audit_entries (tenant_id, tx, id);

CREATE TABLE audit_seals (
    tenant_id text COLLATE "C" NOT NULL REFERENCES tenants,
    n         integer NOT NULL CHECK (n > 0),
    upto      xid8 NOT NULL,
    entries   integer NOT NULL CHECK (entries > 0),
    hash      bytea NOT NULL CHECK (octet_length(hash) = 32),
    at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, n)
);
"""

# Who brings a key has not said yet whose it is: this runs as the loader, whom policies do not bind, and finds one row by its hash.
FIND = """
CREATE FUNCTION find_key(given bytea) RETURNS TABLE (tenant_id text, id text, scopes text[], state text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.tenant_id, k.id, k.scopes,
        CASE WHEN k.revoked_at IS NOT NULL THEN 'revoked' WHEN k.expires_at <= now() THEN 'expired' ELSE 'good' END
    FROM public.api_keys k WHERE k.hash = given
$$;
REVOKE ALL ON FUNCTION find_key(bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION find_key(bytea) TO rap_app;
"""

GUARDED = "api_keys", "audit_entries", "audit_seals"


def upgrade() -> None:
    op.execute(TABLES)
    for table in GUARDED:
        mine = "tenant_id = (SELECT current_setting('app.tenant_id', true))"
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY own_tenant ON {table} TO rap_app, rap_owner USING ({mine}) WITH CHECK ({mine})")
    op.execute(FIND)
    give("find_key", "rap_loader")
    op.execute("GRANT SELECT ON api_keys TO rap_loader")
    op.execute("GRANT SELECT, INSERT, UPDATE (expires_at, revoked_at, replaced_by) ON api_keys TO rap_app")
    op.execute("GRANT SELECT, INSERT ON audit_entries, audit_seals TO rap_app")  # appended to, never changed


def downgrade() -> None:
    op.execute("DROP FUNCTION find_key(bytea); DROP TABLE audit_seals, audit_entries, api_keys")
