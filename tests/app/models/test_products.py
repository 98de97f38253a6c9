"""Products: what a form must say, who may say it, and what stays once a journal has begun."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.models import products
from app.models.accounts import User
from app.models.db import DAL, Invalid, close, execute, insert, rows, transaction
from app.models.products import Product
from tests.database import add_user

FORM = {
    "name": "gs",
    "description": "Goldman Sachs Group Inc...",
    "unit_price": "105.20",
    "tick": "0.01",
    "lot": "1",
    "post_url": "http://127.0.0.1:8881/",
    "quote_url": "http://127.0.0.1:8881/quote",
    "ws_url": "ws://127.0.0.1:8881/realtime",
    "active": "on",
    "allow_short": "on",
}


@pytest.fixture
def manager(db: DAL) -> User:
    return add_user(db, "manager1", manager=True)


def _errors(**fields: str) -> set[str]:
    try:
        products.validate(FORM | fields)
    except Invalid as invalid:
        return set(invalid.errors)
    return set()


def _register(db: DAL, by: User, **fields: str) -> Product:
    form = products.validate(FORM | fields)
    with transaction(db, write=True):
        return products.register(db, form, by=by, at=5)


def _edit(db: DAL, product: int, by: User, **fields: str) -> Product:
    form = products.validate(FORM | fields)
    with transaction(db, write=True):
        return products.edit(db, product, form, by=by, at=6)


def test_a_registered_product_is_found_by_id_and_by_ticker(db: DAL, manager: User) -> None:
    product = _register(db, manager)
    assert product == Product(
        id=1,
        name="gs",
        description="Goldman Sachs Group Inc...",
        unit_price=1_052_000,
        tick=100,
        lot=1,
        post_url="http://127.0.0.1:8881/",
        quote_url="http://127.0.0.1:8881/quote",
        ws_url="ws://127.0.0.1:8881/realtime",
        active=True,
        allow_short=True,
    )
    assert (product.host, product.port) == ("127.0.0.1", 8881)
    with transaction(db):
        assert products.get(db, 1) == products.find(db, "gs") == product
        assert products.get(db, 2) is products.find(db, "intc") is None
        assert rows(db, "SELECT created_on, created_by, modified_on, modified_by FROM product") == [
            (5, manager.id, 5, manager.id)
        ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "all"),
        ("name", "GS"),
        ("name", "1gs"),
        ("name", "g s"),
        ("name", "a" * 17),
        ("name", "gs;drop"),
        ("description", "x" * 513),
        ("description", "Intel\0 Inc."),
        ("description", "Intel\nInc."),
        ("description", "Intel \u202e.cnI"),
        ("unit_price", ""),
        ("unit_price", "0"),
        ("unit_price", "-5"),
        ("unit_price", "105.205"),
        ("unit_price", "105.20001"),
        ("tick", "0"),
        ("tick", "x"),
        ("lot", "0"),
        ("lot", "1.5"),
        ("lot", "-1"),
        ("lot", "1" + 12 * "0"),
        ("lot", "9" * 5000),
        ("lot", 20 * "0" + 20 * "9"),
        ("post_url", ""),
        ("post_url", "127.0.0.1:8881"),
        ("post_url", "ws://127.0.0.1:8881/"),
        ("post_url", "ftp://127.0.0.1:8881/"),
        ("post_url", "http://user:pw@127.0.0.1:8881/"),
        ("post_url", "http://127.0.0.1:8881/elsewhere"),
        ("post_url", "http://127.0.0.1:notaport/"),
        ("post_url", "http://127.0.0.1:99999/"),
        ("post_url", "http://:8881/"),
        ("post_url", "http://[::1:8881/"),
        ("quote_url", "http://127.0.0.1:8882/quote"),
        ("quote_url", "http://10.0.0.1:8881/quote"),
        ("quote_url", "https://127.0.0.1:8881/quote"),
        ("quote_url", "http://127.0.0.1:8881/"),
        ("ws_url", "http://127.0.0.1:8881/realtime"),
        ("ws_url", "wss://127.0.0.1:8881/realtime"),
        ("ws_url", "ws://127.0.0.1:8881/realtime?x=1"),
        ("ws_url", "ws://127.0.0.1:8881/" + "realtime" * 40),
        ("port", "0"),
        ("port", "8882"),  # while the URLs say 8881
        ("port", "65536"),
        ("port", "http"),
    ],
)
def test_a_field_that_is_wrong_is_named_and_no_other(field: str, value: str) -> None:
    assert _errors(**{field: value}) == {field}


@pytest.mark.parametrize(
    "fields",
    [
        {"unit_price": "105.205", "tick": "0.005"},
        {"tick": "", "lot": ""},
        {"ws_url": "ws://localhost:8881/realtime"},
        {"ws_url": "ws://127.0.0.1:8881/realtime/"},
        {"post_url": "http://127.0.0.1:8881"},
        {
            "post_url": "https://market.example/",
            "quote_url": "https://market.example/quote",
            "ws_url": "wss://market.example/realtime",
        },
    ],
)
def test_what_a_manager_may_write(fields: dict[str, str]) -> None:
    assert _errors(**fields) == set()


def test_a_port_alone_fills_the_three_urls() -> None:
    empty = {"post_url": "", "quote_url": "", "ws_url": ""}
    form = products.validate(FORM | empty | {"port": "9123"})
    assert (form.post_url, form.quote_url, form.ws_url) == (
        "http://127.0.0.1:9123/",
        "http://127.0.0.1:9123/quote",
        "ws://127.0.0.1:9123/realtime",
    )


@pytest.mark.parametrize(
    ("fields", "taken"),
    [
        ({"port": "8882", "post_url": "", "quote_url": "", "ws_url": ""}, "name"),
        ({"name": "intc"}, "post_url"),
        (
            {
                "name": "intc",
                "post_url": "http://localhost:8881/",
                "quote_url": "http://localhost:8881/quote",
                "ws_url": "ws://localhost:8881/realtime",
            },
            "post_url",
        ),
    ],
)
def test_a_ticker_and_a_port_have_one_product(
    db: DAL, manager: User, fields: dict[str, str], taken: str
) -> None:
    _register(db, manager)
    with pytest.raises(Invalid) as raised:
        _register(db, manager, **fields)
    assert set(raised.value.errors) == {taken}
    with transaction(db):
        assert len(products.every(db)) == 1


def test_of_managers_who_want_one_port_at_once_one_gets_it(db: DAL, manager: User) -> None:
    start = threading.Barrier(4)

    def attempt(name: str) -> bool:
        start.wait()
        try:
            _register(db, manager, name=name)
        except Invalid:
            return False
        finally:
            close(db)
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(attempt, "abcd")) == [False] * 3 + [True]


def test_only_managers_register_and_edit(db: DAL, manager: User) -> None:
    trader = add_user(db, "trader1")
    with pytest.raises(PermissionError):
        _register(db, trader)
    product = _register(db, manager)
    with pytest.raises(PermissionError):
        _edit(db, product.id, trader, description="mine")
    with transaction(db):
        assert products.every(db) == [product]


def test_an_edit_changes_what_the_form_says_and_who_did_it(db: DAL, manager: User) -> None:
    product = _register(db, manager)
    other = add_user(db, "manager2", manager=True)
    edited = _edit(
        db, product.id, other, name="goldman", description="", active="", allow_short="", lot="10"
    )
    assert edited.lot == 10
    assert not edited.active
    assert not edited.allow_short
    with transaction(db):
        assert products.get(db, product.id) == edited
        assert products.every(db, active_only=True) == []
        assert rows(db, "SELECT created_by, modified_on, modified_by FROM product") == [
            (manager.id, 6, other.id)
        ]
    with pytest.raises(LookupError):
        _edit(db, 99, manager)


def test_products_are_listed_by_ticker_and_do_not_take_each_others_name(
    db: DAL, manager: User
) -> None:
    other_port = {"port": "8882", "post_url": "", "quote_url": "", "ws_url": ""}
    gs = _register(db, manager)
    appl = _register(db, manager, name="appl", **other_port)
    with transaction(db):
        assert products.every(db) == [appl, gs]
    with pytest.raises(Invalid, match="name"):
        _edit(db, appl.id, manager, name="gs", **other_port)
    with pytest.raises(Invalid, match="post_url"):
        _edit(db, appl.id, manager, name="appl")


def test_what_the_journal_has_fixed_cannot_be_edited_once_it_has_begun(
    db: DAL, manager: User
) -> None:
    product = _register(db, manager)
    with transaction(db, write=True):
        insert(db, "log_position", ticker="gs", lineage="a", h="")
    with pytest.raises(Invalid) as raised:
        _edit(db, product.id, manager, name="g", unit_price="106", tick="0.02", lot="5")
    assert set(raised.value.errors) == {"name", "unit_price", "tick", "lot"}
    assert _edit(db, product.id, manager, description="still editable").name == "gs"


def _intent(db: DAL, owner: int, *, state: str, ticker: str = "gs") -> None:
    with transaction(db, write=True):
        insert(
            db,
            "order_intent",
            owner=owner,
            ticker=ticker,
            client_id=f"web-{state}",
            request="{}",
            buy_sell="buy",
            tif="gtc",
            stp="taker",
            state=state,
        )


def _order(db: DAL, owner: int, *, status: str, client_id: str = "") -> None:
    with transaction(db, write=True):
        fields = {"buy_sell": "buy", "tif": "gtc", "stp": "taker"}
        key = {"ticker": "gs", "lineage": "a", "created_by": owner}
        oid = len(rows(db, "SELECT id FROM buy_sell_order")) + 1
        insert(db, "buy_sell_order", **key, **fields, oid=oid, status=status, client_id=client_id)


@pytest.mark.parametrize("state", ["reserved", "unknown", "accepted"])
def test_a_product_keeps_its_name_while_orders_are_on_their_way(
    db: DAL, manager: User, state: str
) -> None:
    product = _register(db, manager)
    _intent(db, manager.id, state="rejected")
    _intent(db, manager.id, state=state, ticker="other")
    assert _edit(db, product.id, manager, name="gs2").name == "gs2"
    _edit(db, product.id, manager)
    _intent(db, manager.id, state=state)
    with pytest.raises(Invalid) as raised:
        _edit(db, product.id, manager, name="gs2")
    assert set(raised.value.errors) == {"name"}
    assert _edit(db, product.id, manager, description="still editable").name == "gs"


def test_an_inactive_product_is_served_while_orders_of_traders_are_open(
    db: DAL, manager: User
) -> None:
    product = _register(db, manager)
    with transaction(db, write=True):
        insert(db, "log_position", ticker="gs", lineage="a", h="")

    def is_served() -> bool:
        with transaction(db):
            return [each.id for each in products.served(db)] == [product.id]

    assert is_served(), "it is active"
    _edit(db, product.id, manager, active="")
    assert not is_served()
    _order(db, 0, status="open")  # the house's
    _order(db, 7, status="filled")
    _order(db, 7, status="canceled")
    assert not is_served()
    _intent(db, manager.id, state="accepted")
    assert is_served(), "its order may be open"
    _order(db, manager.id, status="canceled", client_id="web-accepted")
    assert not is_served(), "its row says that it is not"
    _order(db, 7, status="pending_stop")
    assert is_served()
    with transaction(db, write=True):
        execute(db, "UPDATE log_position SET closed = 'T'")
    assert not is_served(), "what belongs to a closed journal is open no more"


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "python matchingserver.py -p 8881 -t gs --price 105.20"),
        ({"unit_price": "100"}, "python matchingserver.py -p 8881 -t gs"),
        (
            {"unit_price": "100", "tick": "0.05", "lot": "100"},
            "python matchingserver.py -p 8881 -t gs --tick 0.05 --lot 100",
        ),
        (
            {"unit_price": "0.0005", "tick": "0.0005"},
            "python matchingserver.py -p 8881 -t gs --price 0.0005 --tick 0.0005",
        ),
    ],
)
def test_the_line_to_copy_says_what_differs_from_the_defaults(
    db: DAL, manager: User, fields: dict[str, str], line: str
) -> None:
    assert products.command_line(_register(db, manager, **fields)) == line
