"""Which region a listener's rows live in, and which server takes their events."""

from alembic import op

from rap_analyzer.migrations.policies import guard

revision = "0023"
down_revision = "0022"

# `homes` is the directory: one server has it, and a router may know an old row of it. `residents` lies on each region's server and
# decides: an event is taken where the row is open, and only with its epoch. Both are never deleted, so an old epoch stays refused.
TABLES = """
CREATE TABLE homes (
    tenant_id   text COLLATE "C" NOT NULL REFERENCES tenants,
    listener_id bigint NOT NULL CHECK (listener_id >= 0),
    region      text COLLATE "C" NOT NULL CHECK (region ~ '^[a-z][a-z0-9-]{0,30}$'),
    epoch       bigint NOT NULL DEFAULT 1 CHECK (epoch >= 1),
    moving_to   text COLLATE "C" CHECK (moving_to ~ '^[a-z][a-z0-9-]{0,30}$' AND moving_to <> region),
    PRIMARY KEY (tenant_id, listener_id)
);

CREATE TABLE residents (
    tenant_id   text COLLATE "C" NOT NULL REFERENCES tenants,
    listener_id bigint NOT NULL CHECK (listener_id >= 0),
    epoch       bigint NOT NULL DEFAULT 1 CHECK (epoch >= 1),
    open        boolean NOT NULL DEFAULT true,
    PRIMARY KEY (tenant_id, listener_id)
);
"""

# Whoever closes the row waits for the transactions that hold it; whoever comes after them is refused.
HOLD = """
CREATE FUNCTION hold_home(p_listener bigint, p_epoch bigint) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    PERFORM FROM residents WHERE listener_id = p_listener AND epoch = p_epoch AND open FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'listener % is not at home here in epoch %', p_listener, p_epoch USING ERRCODE = 'RG001';
    END IF;
END $$;
"""


def upgrade() -> None:
    op.execute(TABLES)
    guard("homes", "residents")
    op.execute("GRANT SELECT, INSERT, UPDATE (region, epoch, moving_to) ON homes TO rap_app")
    op.execute("GRANT SELECT, INSERT, UPDATE (epoch, open) ON residents TO rap_app")
    op.execute(HOLD)
    op.execute("REVOKE ALL ON FUNCTION hold_home FROM PUBLIC; GRANT EXECUTE ON FUNCTION hold_home TO rap_app")
    op.execute("SELECT claims.secure_table('homes'), claims.secure_table('residents')")


def downgrade() -> None:
    op.execute("DROP FUNCTION hold_home; DROP TABLE residents, homes")
