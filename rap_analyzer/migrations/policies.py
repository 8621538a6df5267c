"""What every table of a tenant gets: row-level security that binds its owner too, and one policy."""

from alembic import op

MINE = "tenant_id = (SELECT current_setting('app.tenant_id', true))"


def guard(*tables: str) -> None:
    "Let each tenant see and write its own rows of these tables, and nothing else."
    for table in tables:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY own_tenant ON {table} TO rap_app, rap_owner USING ({MINE}) WITH CHECK ({MINE})")
