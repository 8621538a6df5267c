"""Auctions of beats, and the bids that were taken."""

from alembic import op

from rap_analyzer.migrations.policies import guard

revision = "0020"
down_revision = "0019"

# What bidders compete for is one row: price, leader and bid_id of an auction change together, under its lock. Amounts are whole
# cents. No foreign key to listeners and tracks, as for events: the history outlives what it is about.
TABLES = """
CREATE TABLE auctions (
    tenant_id text COLLATE "C" NOT NULL REFERENCES tenants,
    id        text COLLATE "C" NOT NULL CHECK (id ~ '^[!-~]{1,64}$'),
    track_id  bigint NOT NULL CHECK (track_id >= 0),
    opening   bigint NOT NULL CHECK (opening BETWEEN 1 AND 1000000000000),
    increment bigint NOT NULL CHECK (increment BETWEEN 1 AND 1000000000000),
    opened_at timestamptz NOT NULL,
    ends_at   timestamptz NOT NULL CHECK (ends_at > opened_at),
    closed_at timestamptz CHECK (closed_at >= ends_at),
    price     bigint CHECK (price >= opening),
    leader    bigint,
    bid_id    text COLLATE "C",
    bids      integer NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, id),
    CHECK ((price IS NULL) = (leader IS NULL) AND (price IS NULL) = (bid_id IS NULL) AND (price IS NULL) = (bids = 0))
) WITH (fillfactor = 50);

CREATE TABLE bids (
    tenant_id  text COLLATE "C" NOT NULL,
    id         text COLLATE "C" NOT NULL CHECK (id ~ '^[!-~]{1,64}$'),
    auction_id text COLLATE "C" NOT NULL,
    bidder     bigint NOT NULL CHECK (bidder >= 0),
    amount     bigint NOT NULL CHECK (amount BETWEEN 1 AND 1000000000000),
    placed_at  timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, auction_id, amount),
    FOREIGN KEY (tenant_id, auction_id) REFERENCES auctions
);
"""


def upgrade() -> None:
    op.execute(TABLES)
    guard("auctions", "bids")
    op.execute("GRANT SELECT, INSERT, UPDATE (price, leader, bid_id, bids, closed_at) ON auctions TO rap_app")  # never the terms
    op.execute("GRANT SELECT, INSERT ON bids TO rap_app")  # a bid is never changed, and none is taken back
    op.execute("SELECT claims.secure_table('auctions'), claims.secure_table('bids')")


def downgrade() -> None:
    op.execute("DROP TABLE bids, auctions")
