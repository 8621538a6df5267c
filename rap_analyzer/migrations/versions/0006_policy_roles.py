"""Policies name the roles they are for, instead of everybody: a role that nobody thought of sees nothing."""

from alembic import op

revision = "0006"
down_revision = "0005"

# rap_owner is there too: the functions that search run as the owner of the tables, and the policies bind it (FORCE).
EACH = """DO $$ DECLARE name regclass; BEGIN
    FOR name IN SELECT polrelid FROM pg_policy WHERE polname = 'own_tenant' LOOP
        EXECUTE format('ALTER POLICY own_tenant ON %s TO {roles}', name);
    END LOOP;
END $$"""


def upgrade() -> None:
    op.execute(EACH.format(roles="rap_app, rap_owner"))


def downgrade() -> None:
    op.execute(EACH.format(roles="PUBLIC"))
