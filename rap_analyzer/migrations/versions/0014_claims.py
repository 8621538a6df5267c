"""A tenant that is proven: besides the setting that names it, a claim that only the application can sign."""

from importlib import import_module

from alembic import op

revision = "0014"
down_revision = "0013"

words, music = (import_module(f"rap_analyzer.migrations.versions.{name}") for name in ("0003_words", "0005_own_music"))

# Outside of `public`, and no one has USAGE. Of a key only what HMAC needs is kept: the key XOR its two pads (RFC 2104).
KEYS = """
CREATE TABLE claims.keys (
    id        text COLLATE "C" PRIMARY KEY,
    inner_pad bytea NOT NULL CHECK (octet_length(inner_pad) = 64),
    outer_pad bytea NOT NULL CHECK (octet_length(outer_pad) = 64),
    added_at  timestamptz NOT NULL DEFAULT now()
);
"""

# The claim: key, the backend's slot, expiry (seconds since 1970), HMAC-SHA256. What is signed: tenant, pid, backend start, expiry.
# The slot only says where the start is looked up: without it PostgreSQL would go through all sessions for each statement.
# No claim is no tenant, and so no row; a claim that does not fit is an error, since somebody or something is at fault.
VERIFY = """
CREATE FUNCTION verified_tenant() RETURNS text LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    said text := current_setting('app.claim', true);
    tenant text := current_setting('app.tenant_id', true);
    slot int;
    expiry text;
BEGIN
    IF said IS NULL OR said = '' OR tenant IS NULL OR tenant = '' THEN RETURN NULL; END IF;
    IF said !~ '^[0-9a-f]+[.][0-9]+[.][0-9]+[.][0-9a-f]+$' THEN
        RAISE EXCEPTION 'this is no claim of a tenant' USING ERRCODE = 'insufficient_privilege';
    END IF;
    slot := split_part(said, '.', 2);
    expiry := split_part(said, '.', 3);
    PERFORM FROM claims.keys k WHERE k.id = split_part(said, '.', 1) AND split_part(said, '.', 4) = encode(sha256(
        k.outer_pad || sha256(k.inner_pad || convert_to(concat_ws('|', tenant, pg_backend_pid(),
        extract(epoch FROM pg_stat_get_backend_start(slot)), expiry), 'UTF8'))), 'hex');
    IF NOT FOUND OR pg_stat_get_backend_pid(slot) IS DISTINCT FROM pg_backend_pid() THEN
        RAISE EXCEPTION 'the claim of tenant "%" was not signed for this session', left(tenant, 40)
            USING ERRCODE = 'insufficient_privilege';
    ELSIF expiry::bigint < extract(epoch FROM clock_timestamp()) THEN
        RAISE EXCEPTION 'the claim of tenant "%" has expired', left(tenant, 40)
            USING ERRCODE = 'invalid_authorization_specification', HINT = 'Borrow the session anew: each loan has a new claim.';
    END IF;
    RETURN tenant;
END $$;
REVOKE ALL ON FUNCTION verified_tenant() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION verified_tenant() TO rap_app, rap_loader;
"""

# Restrictive: it is ANDed with whatever a table allows, and binds every role that row-level security binds.
SECURE = """
CREATE FUNCTION claims.secure_table(name regclass) RETURNS boolean LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    column_ text := CASE WHEN name = 'public.tenants'::regclass THEN 'id' ELSE 'tenant_id' END;
    rule text := format('%I = (SELECT public.verified_tenant())', column_);
BEGIN
    IF EXISTS (SELECT FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid WHERE p.polrelid = name
               AND p.polname = 'proven_tenant' AND c.relrowsecurity AND c.relforcerowsecurity) THEN RETURN false; END IF;
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', name);
    EXECUTE format('DROP POLICY IF EXISTS proven_tenant ON %s', name);
    EXECUTE format('CREATE POLICY proven_tenant ON %s AS RESTRICTIVE TO PUBLIC USING (%s) WITH CHECK (%s)', name, rule, rule);
    RETURN true;
END $$;
CREATE FUNCTION claims.secure_tables() RETURNS bigint LANGUAGE sql SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT count(*) FILTER (WHERE claims.secure_table(c.oid)) FROM pg_class c
    WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace AND pg_has_role(c.relowner, 'USAGE')
    AND (c.oid = 'public.tenants'::regclass OR EXISTS (
        SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped)) $$;
REVOKE ALL ON FUNCTION claims.secure_table(regclass), claims.secure_tables() FROM PUBLIC;
"""

# The searches that run with the loader's rights ask for the proof once per call, before they look at a row.
BEFORE, NAMED = "BEGIN\n    RETURN QUERY", "current_setting('app.tenant_id', true)"
PROVEN = words.FUNCTION.replace(BEFORE, "DECLARE me text := public.verified_tenant();\n" + BEFORE)
CREDITED = music.CREDITED.replace(NAMED, "(SELECT public.verified_tenant())")
assert PROVEN != words.FUNCTION and CREDITED != music.CREDITED


def remake(function: str, conditions: str, credited: str) -> None:
    "The search functions anew, in the hands of the loader."
    op.execute(f"{music.LOAD}; SET LOCAL ROLE NONE; DROP FUNCTION credited, {', '.join(music.FUNCTIONS)}; SET LOCAL ROLE rap_owner")
    for name, parts in music.FUNCTIONS.items():
        op.execute(function.format(name=name, conditions=conditions, **parts))
        words.give(name, "rap_loader")
    op.execute(credited)
    words.give("credited", "rap_loader")


def upgrade() -> None:
    op.execute("SET LOCAL ROLE NONE; CREATE SCHEMA claims AUTHORIZATION rap_owner; "
               "GRANT pg_read_all_stats TO rap_owner; SET LOCAL ROLE rap_owner")  # to see when another role's session began
    op.execute(KEYS + VERIFY + SECURE)
    remake(PROVEN, music.CONDITIONS.replace(NAMED, "me"), CREDITED)
    op.execute("SELECT claims.secure_tables()")


def downgrade() -> None:
    op.execute("""DO $$ DECLARE name regclass; BEGIN
        FOR name IN SELECT polrelid FROM pg_policy WHERE polname = 'proven_tenant' LOOP
            EXECUTE format('DROP POLICY proven_tenant ON %s', name);
        END LOOP;
    END $$""")
    remake(words.FUNCTION, music.CONDITIONS, music.CREDITED)
    op.execute("DROP FUNCTION verified_tenant(); DROP SCHEMA claims CASCADE")
