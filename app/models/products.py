"""Products: what can be traded, registered and edited by managers.

A product's `name` is its ticker. Tick, lot, ticker and unit price go into its journal when its
matching server first starts (PROTOCOL §5), so they can be changed only until it has traded.
"""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec
from pydal import DAL

from app.models.accounts import User
from app.models.db import Invalid, Taken, execute, insert, lock_row, lock_table, rows
from app.models.rules import Rules, forget_told, read_rules
from app.models.tables import OPEN_INTENTS, OVER_STATUSES, WITHOUT_ROW
from matching.order import HOUSE, TICKER, format_price, parse_price

DEFAULT_PRICE = 1_000_000
DEFAULT_TICK = 100
DEFAULT_LOT = 1
"""What a matching server assumes without --price, --tick and --lot."""

MAX_LOT = 999_999_999_999
"""Twelve digits, as a quantity has at most (PROTOCOL §1)."""

_URLS = {
    "post_url": (("http", "https"), "/"),
    "quote_url": (("http", "https"), "/quote"),
    "ws_url": (("ws", "wss"), "/realtime"),
}
"""Each URL's schemes, plain and encrypted, and its path on the matching server (PROTOCOL §3)."""

_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
_HOST = re.compile(r"[a-z0-9_.-]{1,253}|[0-9a-f:.]{2,45}", re.ASCII)
"""A name or an IPv4 address, or an IPv6 address, as urlsplit returns them: in lower case."""

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class ProductForm(Rules, frozen=True, kw_only=True):
    """A product form that was filled in right, its rules included; prices in ten-thousandths."""

    name: str
    description: str
    unit_price: int
    tick: int
    lot: int
    post_url: str
    quote_url: str
    ws_url: str
    active: bool
    allow_short: bool


class Product(ProductForm, frozen=True, kw_only=True):
    """A product as the platform knows it."""

    id: int

    @property
    def host(self) -> str:
        """The matching server's host name, of its URLs."""
        return urlsplit(self.post_url).hostname or ""

    @property
    def port(self) -> int:
        """The matching server's port, of its URLs."""
        return _port(urlsplit(self.post_url))


_FIELDS = ProductForm.__struct_fields__
_COLUMNS = ", ".join((*_FIELDS, "id"))

_OPEN_INTENT = (
    "EXISTS (SELECT 1 FROM order_intent i WHERE i.ticker = product.name"
    f" AND i.state IN {OPEN_INTENTS} AND {WITHOUT_ROW})"
)
"""Whether an order may have been sent to a product of which the database has no row yet."""

_HAS_ORDERS = (
    "(EXISTS (SELECT 1 FROM buy_sell_order o JOIN log_position l"
    " ON l.ticker = o.ticker AND l.lineage = o.lineage"
    f" WHERE o.ticker = product.name AND o.status NOT IN {OVER_STATUSES} AND l.closed = 'F'"
    f" AND o.created_by <> {HOUSE}) OR {_OPEN_INTENT})"
)
"""Whether orders of traders are open in a product, or may be."""


def validate(form: Mapping[str, str]) -> ProductForm:
    """Fields name, description, unit_price, tick, lot, the URLs, port, active, allow_short, rules.

    A `port` fills the URLs that are empty, and must be that of the others; tick and lot are 0.01
    and 1 if empty. Check boxes: any text is yes. Raises Invalid with a sentence for each field that
    is wrong.
    """
    errors: dict[str, str] = {}
    name = form.get("name", "").strip()
    if TICKER.fullmatch(name) is None:
        errors["name"] = (
            "A ticker is 1 to 16 lowercase letters, digits or underscores, does not begin with a"
            " digit, and is not `all`"
        )
    description = form.get("description", "").strip()
    if len(description) > 512 or not description.isprintable():
        errors["description"] = "Up to 512 characters, in one line"
    tick = _price(form, "tick", errors, default=DEFAULT_TICK)
    unit_price = _price(form, "unit_price", errors)
    if "tick" not in errors and "unit_price" not in errors and unit_price % tick:
        errors["unit_price"] = f"Not a multiple of the tick, {format_price(tick)}"
    lot = _lot(form, errors)
    addresses: dict[str, Any] = _addresses(form, errors)
    rules = read_rules(form, errors)
    if errors:
        raise Invalid(errors)
    return ProductForm(
        name=name,
        description=description,
        unit_price=unit_price,
        tick=tick,
        lot=lot,
        active=bool(form.get("active")),
        allow_short=bool(form.get("allow_short")),
        **addresses,
        **msgspec.structs.asdict(rules),
    )


def register(db: DAL, form: ProductForm, *, by: User, at: int) -> Product:
    """Store a new product. Invalid: name or port is taken; PermissionError: not a manager."""
    _require_manager(by)
    lock_table(db, "product")
    _require_free(db, form, product=0)
    try:
        product = insert(
            db,
            "product",
            created_on=at,
            created_by=by.id,
            modified_on=at,
            modified_by=by.id,
            **msgspec.structs.asdict(form),
        )
    except Taken as taken:  # by another manager at the same moment
        raise Invalid({"name": f"There is a product {form.name} already"}) from taken
    return Product(**msgspec.structs.asdict(form), id=product)


def edit(db: DAL, product: int, form: ProductForm, *, by: User, at: int) -> Product:
    """Change a product. PermissionError: not a manager; LookupError: no such product.

    Invalid: name or port is taken, something that its journal has fixed would change, or its name
    would while orders are on their way to it: under another name nobody could ask about them.
    """
    _require_manager(by)
    lock_table(db, "product")
    lock_row(db, "product", product)  # against orders that are being reserved: see hold()
    old = get(db, product)
    if old is None:
        raise LookupError(f"no product {product}")
    if has_traded(db, old.name):
        fixed = ("name", "tick", "lot", "unit_price")
        changed = [field for field in fixed if getattr(form, field) != getattr(old, field)]
        if changed:
            raise Invalid(dict.fromkeys(changed, "Its journal has begun: this cannot change"))
    if form.name != old.name and has_open_intents(db, product):
        sentence = "Orders of it are on their way: another name has to wait until they are settled"
        raise Invalid({"name": sentence})
    _require_free(db, form, product=product)
    assignments = ", ".join(f"{field} = ?" for field in (*_FIELDS, "modified_on", "modified_by"))
    values = [_sql_value(value) for value in msgspec.structs.astuple(form)]
    execute(db, f"UPDATE product SET {assignments} WHERE id = ?", *values, at, by.id, product)
    forget_told(db, product)  # also if it is the same: a program may have set something else
    return Product(**msgspec.structs.asdict(form), id=product)


def get(db: DAL, product: int) -> Product | None:
    """The product with this id."""
    found = rows(db, f"SELECT {_COLUMNS} FROM product WHERE id = ?", product)
    return _product(found[0]) if found else None


def hold(db: DAL, product: int) -> Product | None:
    """The product with this id, as it stays until this writing transaction ends.

    Who promises cash to an order holds its product: under another name nobody could find out what
    became of it.
    """
    lock_row(db, "product", product, shared=True)
    return get(db, product)


def find(db: DAL, name: str) -> Product | None:
    """The product with this ticker."""
    found = rows(db, f"SELECT {_COLUMNS} FROM product WHERE name = ?", name)
    return _product(found[0]) if found else None


def every(db: DAL, *, active_only: bool = False) -> list[Product]:
    """All products, by name."""
    condition = " WHERE active = 'T'" if active_only else ""
    found = rows(db, f"SELECT {_COLUMNS} FROM product{condition} ORDER BY name")
    return [_product(row) for row in found]


def served(db: DAL) -> list[Product]:
    """The products whose matching servers are needed, by name: the active ones, and those where
    orders of traders are still open, or may be, so that they can be canceled and found out about.
    """
    found = rows(
        db,
        f"SELECT {_COLUMNS} FROM product WHERE active = 'T' OR {_HAS_ORDERS} ORDER BY name",
    )
    return [_product(row) for row in found]


def has_traded(db: DAL, name: str) -> bool:
    """Whether log2db has seen a journal of this ticker in the present run."""
    return bool(rows(db, "SELECT id FROM log_position WHERE ticker = ? AND closed = 'F'", name))


def has_orders(db: DAL, product: int) -> bool:
    """Whether orders of traders are open in the product, or may be."""
    return bool(rows(db, f"SELECT id FROM product WHERE id = ? AND {_HAS_ORDERS}", product))


def has_open_intents(db: DAL, product: int) -> bool:
    """Whether orders may have been sent to the product of which the database has no row yet."""
    return bool(rows(db, f"SELECT id FROM product WHERE id = ? AND {_OPEN_INTENT}", product))


def urls(port: int, *, host: str = "127.0.0.1") -> dict[str, str]:
    """post_url, quote_url and ws_url of a matching server on this port.

    >>> urls(8881)["ws_url"]
    'ws://127.0.0.1:8881/realtime'
    """
    return {field: f"{plain}://{host}:{port}{path}" for field, ((plain, _), path) in _URLS.items()}


def command_line(product: Product) -> str:
    """The line that starts the product's matching server, to copy into a terminal.

    `python matchingserver.py -p 8881 -t gs --price 105.20`: --price, --tick and --lot where they
    are not what the server assumes without them.
    """
    words = ["python matchingserver.py", f"-p {product.port}", f"-t {product.name}"]
    if product.unit_price != DEFAULT_PRICE:
        words.append(f"--price {format_price(product.unit_price)}")
    if product.tick != DEFAULT_TICK:
        words.append(f"--tick {format_price(product.tick)}")
    if product.lot != DEFAULT_LOT:
        words.append(f"--lot {product.lot}")
    return " ".join(words)


def _price(
    form: Mapping[str, str], field: str, errors: dict[str, str], *, default: int | None = None
) -> int:
    text = form.get(field, "").strip()
    if not text and default is not None:
        return default
    try:
        price = parse_price(text)
    except ValueError:
        price = 0
    if price == 0:
        errors[field] = "Enter a price above 0, with at most four decimals"
    return price


def _lot(form: Mapping[str, str], errors: dict[str, str]) -> int:
    text = form.get("lot", "").strip() or str(DEFAULT_LOT)
    lot = _number(text, MAX_LOT)
    if lot is None:
        errors["lot"] = "Enter a whole number of shares from 1"
    return lot or 0


def _number(text: str, largest: int) -> int | None:
    """A whole number from 1 to `largest`; None for anything else."""
    if not (text.isascii() and text.isdecimal()) or len(text) > len(str(largest)):
        return None
    return int(text) if 1 <= int(text) <= largest else None


def _addresses(form: Mapping[str, str], errors: dict[str, str]) -> dict[str, str]:
    """The three URLs; each has the right scheme, and all name one host, port and encryption."""
    given = {field: form.get(field, "").strip() for field in _URLS}
    port = form.get("port", "").strip()
    number = _number(port, 65535)
    if port and number is None:
        errors["port"] = "A port is a number from 1 to 65535"
        return given
    if number is not None:
        given = {field: given[field] or url for field, url in urls(number).items()}
    servers: dict[str, tuple[str, int, bool]] = {}
    for field, (schemes, path) in _URLS.items():
        try:
            url = urlsplit(given[field])
            servers[field] = (_host(url), _port(url), url.scheme == schemes[1])
            right = url.scheme in schemes and _names_server_only(url, path)
        except ValueError:
            right = False
        if not right or len(given[field]) > 255 or not given[field].isprintable():
            errors[field] = f"Enter a URL like {schemes[0]}://127.0.0.1:9123{path}"
    if not set(_URLS) & set(errors):
        for field in ("quote_url", "ws_url"):
            if servers[field] != servers["post_url"]:
                errors[field] = "Its host, port or encryption is not the Post Url's"
        if number is not None and servers["post_url"][1] != number:
            errors["port"] = "The addresses name another port: change them too, or empty this"
    return given


def _names_server_only(url: SplitResult, path: str) -> bool:
    """Whether a URL says a host, perhaps a port, and this path: no account, no question."""
    says_more = url.username is not None or url.query or url.fragment or url.port == 0
    is_host = _HOST.fullmatch(url.hostname or "") is not None
    return is_host and not says_more and url.path.rstrip("/") == path.rstrip("/")


def _host(url: SplitResult) -> str:
    host = url.hostname or ""
    return "localhost" if host in _LOOPBACK else host


def _port(url: SplitResult) -> int:
    return url.port or _DEFAULT_PORTS.get(url.scheme, 0)


def _require_manager(user: User) -> None:
    if not user.manager:
        raise PermissionError("only managers register and edit products")


def _require_free(db: DAL, form: ProductForm, *, product: int) -> None:
    """No other product has this name, or this host and port."""
    for other in every(db):
        if other.id == product:
            continue
        if other.name == form.name:
            raise Invalid({"name": f"There is a product {form.name} already"})
        if _server(other) == _server(form):
            raise Invalid({"post_url": f"{other.name} has this host and port already"})


def _server(form: ProductForm) -> tuple[str, int]:
    url = urlsplit(form.post_url)
    return _host(url), _port(url)


def _product(row: tuple[object, ...]) -> Product:
    fields = dict(zip((*_FIELDS, "id"), row, strict=True))
    for field in ("active", "allow_short"):
        fields[field] = fields[field] == "T"
    return Product(**fields)  # type: ignore[arg-type]


def _sql_value(value: object) -> object:
    """A value as pyDAL stores it: its booleans are T and F."""
    return "FT"[value] if isinstance(value, bool) else value
