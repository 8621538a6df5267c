"""Events by time: reports read a window of a tenant's events, and BRIN on `received` cannot say when something happened."""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.execute("CREATE INDEX events_at ON events (tenant_id, time)")


def downgrade() -> None:
    op.execute("DROP INDEX events_at")
