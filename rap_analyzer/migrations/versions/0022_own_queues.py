"""Jobs: an analyzer may have a queue of its own, so the names of queues are the settings' business."""

from alembic import op

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    # `jobs.enqueue_query` checks the names. A version before this one knows two of them and leaves the others' jobs alone.
    op.execute("ALTER TABLE jobs DROP CONSTRAINT jobs_queue_check")


def downgrade() -> None:
    # not for the rows that are there: jobs of an analyzer's own queue stay until a version that knows it is back
    op.execute("ALTER TABLE jobs ADD CONSTRAINT jobs_queue_check CHECK (queue IN ('interactive', 'bulk')) NOT VALID")
