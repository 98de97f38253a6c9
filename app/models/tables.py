"""The tables (db_wizard.py in web2py): what the platform stores, and what a journal becomes.

| table | written by | holds |
|---|---|---|
| `auth_user`, `session`, `product` | the platform | who trades, and what, by which rules |
| `product_limit` | the platform | who is excepted from a product's limits (R16) |
| `order_intent` | the platform | cash promised to orders that the journal does not show yet (R17) |
| `amend_intent` | the platform | cash promised to amends that the journal does not show yet (R17) |
| `ledger` | the platform | every change of an account's cash that is not a trade |
| `run` | whoever begins a new run | the runs that have ended (app/models/runs.py) |
| `buy_sell_order`, `match`, `position`, `log_position` | log2db | a journal, folded (PROTOCOL §6) |

Prices and money are integers of 1/10,000, times are microseconds since 1970, both `bigint`. Rows
from a journal carry its lineage, since oid and seq begin anew with it, and their owners are plain
numbers: owner 0 is the house, and an owner without an account trades none the less.

`log_position` also holds what later records and R17 go by: the fees and the band in force, last
(the reference price before the first trade), and whether what an auction collects has yet to be
uncrossed: from `auction` on until the market is `continuous` again, whatever is in between.
"""

from pydal import DAL, Field

from matching.limits import DEFAULTS
from matching.settings import NAMES

INDEXES = (
    "CREATE UNIQUE INDEX IF NOT EXISTS auth_user_name ON auth_user (lower(username))",
    "CREATE INDEX IF NOT EXISTS auth_user_reset ON auth_user (substr(reset_password_key, 1, 64))"
    " WHERE reset_password_key <> ''",
    "CREATE UNIQUE INDEX IF NOT EXISTS order_oid ON buy_sell_order (ticker, lineage, oid)",
    # By client_id first: a program counts its ids up, so that new entries lie beside each other.
    "CREATE INDEX IF NOT EXISTS order_client ON buy_sell_order (client_id, created_by, ticker)"
    " WHERE client_id <> ''",
    "CREATE INDEX IF NOT EXISTS order_working ON buy_sell_order (created_by)"
    " WHERE status NOT IN ('filled', 'canceled')",
    'CREATE UNIQUE INDEX IF NOT EXISTS match_seq ON "match" (ticker, lineage, seq)',
    'CREATE INDEX IF NOT EXISTS match_buyer ON "match" (buyer, ticker, lineage, seq)',
    'CREATE INDEX IF NOT EXISTS match_seller ON "match" (seller, ticker, lineage, seq)',
    "CREATE UNIQUE INDEX IF NOT EXISTS position_owner ON position (ticker, lineage, owner)",
    "CREATE INDEX IF NOT EXISTS position_of ON position (owner)",
    "CREATE UNIQUE INDEX IF NOT EXISTS log_lineage ON log_position (ticker, lineage)",
    "CREATE UNIQUE INDEX IF NOT EXISTS log_open ON log_position (ticker) WHERE closed = 'F'",
    "CREATE UNIQUE INDEX IF NOT EXISTS intent_id ON order_intent (owner, ticker, client_id)",
    "CREATE INDEX IF NOT EXISTS intent_state ON order_intent (state, owner)",
    "CREATE INDEX IF NOT EXISTS amend_owner ON amend_intent (owner)",
    "CREATE INDEX IF NOT EXISTS ledger_owner ON ledger (owner)",
    "CREATE UNIQUE INDEX IF NOT EXISTS limit_of ON product_limit (product, owner, name)",
    "CREATE INDEX IF NOT EXISTS log_run ON log_position (run) WHERE run > 0",
)
"""What pyDAL's definitions cannot say: keys of several columns, and partial ones.

At most one lineage of a ticker is open; everything about a trader is found by an index.
"""

FORMER_INDEXES = ("order_open", "order_client_id")
"""What databases made by earlier versions have, and nothing needs any more."""

OVER_STATUSES = "('filled', 'canceled')"
"""The statuses of orders that are over, as SQL, word for word as in the index `order_working`.

SQLite looks through a list of two at once, and builds a table of a longer one for every row.
"""

OPEN_INTENTS = "('reserved', 'unknown', 'accepted')"
"""The states of intents that may become, or already are, an order."""

WITHOUT_ROW = (
    "NOT EXISTS (SELECT 1 FROM buy_sell_order o WHERE o.created_by = i.owner"
    " AND o.ticker = i.ticker AND o.client_id = i.client_id AND o.client_id <> '')"
)
"""Whether log2db has not written the row of intent `i` yet, as SQL."""


def define(db: DAL) -> None:
    """Define every table on `db`; whether that creates or changes them is `db`'s own setting."""
    db.define_table(
        "auth_user",
        Field("username", length=64, notnull=True, unique=True),
        Field("first_name", length=128, notnull=True),
        Field("last_name", length=128, notnull=True),
        Field("email", length=254, notnull=True, unique=True),
        Field("password", "password", length=255, notnull=True, readable=False),
        Field("manager", "boolean", notnull=True, default=False),
        _bigint("actual_cash", label="Actual Cash Balance"),
        _bigint("created_on"),
        _bigint("modified_on"),
        Field("registration_key", length=255, notnull=True, default=""),
        Field("reset_password_key", length=255, notnull=True, default=""),
        Field("registration_id", length=255, notnull=True, default=""),
        format="%(username)s",
    )
    db.define_table(
        "session",
        Field("token_hash", length=64, notnull=True, unique=True),
        _owner_account(db),
        _bigint("created_on"),
        _bigint("expires_on"),
    )
    db.define_table(
        "product",
        Field("name", length=16, notnull=True, unique=True),
        Field("description", length=512, notnull=True, default=""),
        _bigint("unit_price"),
        _bigint("tick"),
        _bigint("lot"),
        Field("post_url", length=255, notnull=True),
        Field("quote_url", length=255, notnull=True),
        Field("ws_url", length=255, notnull=True),
        Field("active", "boolean", notnull=True, default=True),
        Field("allow_short", "boolean", notnull=True, default=True),
        *(_bigint(name) for name in NAMES),
        *(_bigint(name, default=value) for name, value in DEFAULTS.items()),
        Field("rules_lineage", length=16, notnull=True, default=""),
        _bigint("created_on"),
        Field("created_by", db.auth_user, notnull=True, ondelete="RESTRICT"),
        _bigint("modified_on"),
        Field("modified_by", db.auth_user, notnull=True, ondelete="RESTRICT"),
        format="%(name)s",
    )
    db.define_table(
        "product_limit",
        Field("product", db.product, notnull=True, ondelete="RESTRICT"),
        _owner_account(db),
        Field("name", length=16, notnull=True),
        _bigint("value"),
    )
    db.define_table(
        "order_intent",
        _owner_account(db),
        *_journal_key(lineage=False),
        Field("client_id", length=36, notnull=True),
        Field("request", length=255, notnull=True),
        Field("buy_sell", length=4, notnull=True),
        _bigint("quantity"),
        _bigint("price"),
        _bigint("stop_price"),
        Field("tif", length=4, notnull=True),
        Field("stp", length=9, notnull=True),
        Field("post", "boolean", notnull=True, default=False),
        _bigint("peak"),
        _bigint("ts"),
        _bigint("value_price"),
        _bigint("reserved"),
        Field("state", length=10, notnull=True),
        _bigint("oid"),
        Field("code", length=32, notnull=True, default=""),
        Field("message", length=512, notnull=True, default=""),
        _bigint("created_on"),
        _bigint("modified_on"),
    )
    db.define_table(
        "amend_intent",
        _owner_account(db),
        *_journal_key(),
        _bigint("oid"),
        Field("buy_sell", length=4, notnull=True),
        _bigint("quantity"),
        _bigint("value_price"),
        _bigint("ts"),
        _bigint("seq"),
        _bigint("created_on"),
    )
    db.define_table(
        "ledger",
        _owner_account(db),
        _bigint("amount"),
        Field("reason", length=64, notnull=True),
        Field("deposit", "boolean", notnull=True, default=True),
        _bigint("created_on"),
    )
    db.define_table(
        "run",
        Field("number", "bigint", notnull=True, unique=True),
        _bigint("begun_on"),
        _bigint("ended_on"),
        _bigint("ended_by"),
        _bigint("trades"),
    )
    db.define_table(
        "buy_sell_order",
        *_journal_key(),
        _bigint("seq"),
        _bigint("oid"),
        Field("buy_sell", length=4, notnull=True),
        _bigint("quantity"),
        _bigint("price"),
        _bigint("stop_price"),
        _bigint("peak"),
        Field("client_id", length=36, notnull=True, default=""),
        Field("tif", length=4, notnull=True),
        Field("stp", length=9, notnull=True),
        Field("post", "boolean", notnull=True, default=False),
        Field("cod", "boolean", notnull=True, default=False),
        Field("status", length=16, notnull=True),
        _bigint("filled"),
        Field("reason", length=16, notnull=True, default=""),
        _bigint("triggered_on"),
        _bigint("created_on"),
        _bigint("created_by"),
        _bigint("modified_on"),
    )
    db.define_table(
        "match",
        *_journal_key(),
        _bigint("seq"),
        _bigint("tid"),
        _bigint("quantity"),
        _bigint("price"),
        _bigint("buyer"),
        _bigint("seller"),
        _bigint("buy_oid"),
        _bigint("sell_oid"),
        Field("taker", length=4, notnull=True),
        _bigint("buyer_fee"),
        _bigint("seller_fee"),
        _bigint("match_time"),
        _bigint("created_on"),
    )
    db.define_table(
        "position",
        *_journal_key(),
        _bigint("owner"),
        _bigint("shares"),
        _bigint("cost"),
        _bigint("cash"),
    )
    db.define_table(
        "log_position",
        *_journal_key(),
        _bigint("seq"),
        _bigint("offset"),
        _bigint("batch"),
        Field("h", length=32, notnull=True),
        _bigint("time"),
        _bigint("maker_fee"),
        _bigint("taker_fee"),
        _bigint("band"),
        _bigint("last"),
        Field("auction", "boolean", notnull=True, default=False),
        Field("closed", "boolean", notnull=True, default=False),
        _bigint("run"),
    )


def _bigint(name: str, *, default: int = 0, **attributes: object) -> Field:
    return Field(name, "bigint", notnull=True, default=default, **attributes)


def _owner_account(db: DAL) -> Field:
    return Field("owner", db.auth_user, notnull=True, ondelete="RESTRICT")


def _journal_key(*, lineage: bool = True) -> list[Field]:
    ticker = Field("ticker", length=16, notnull=True)
    return [ticker, Field("lineage", length=16, notnull=True)] if lineage else [ticker]
