"""${message}."""

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    op.execute("""${upgrades if upgrades else "SELECT 1"}""")


def downgrade() -> None:
    op.execute("""${downgrades if downgrades else "SELECT 1"}""")
