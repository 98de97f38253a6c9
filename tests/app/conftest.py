"""Fixtures of the platform's tests: a venue that a file's tests share, and who is in it."""

from collections.abc import Iterator

import pytest

from app.controllers.base import LINKS_A_NAME, SIGN_UPS_AN_ADDRESS
from app.controllers.throttle import Throttle
from app.models import accounts
from app.models.accounts import User
from app.models.products import Product
from tests.app.venue import FEW_ROUNDS, Web, running_web
from tests.database import own_database


@pytest.fixture(scope="module")
def web(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """On SQLite, but where a module is `on_each_database`."""
    with (
        own_database(getattr(request, "param", "sqlite")) as uri,
        running_web(tmp_path_factory.mktemp("var"), uri) as web,
    ):
        yield web


@pytest.fixture
def quick_hashing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The policy's 600,000 rounds are tested with the models; here they would only take time."""
    hash_password, check_password = accounts.hash_password, accounts.check_password
    monkeypatch.setattr(
        accounts,
        "hash_password",
        lambda password, rounds=FEW_ROUNDS: hash_password(password, rounds=FEW_ROUNDS),
    )
    monkeypatch.setattr(
        accounts,
        "check_password",
        lambda known, password: check_password(known, password, rounds=FEW_ROUNDS),
    )


@pytest.fixture
def nobody_has_failed(web: Web) -> None:
    """What other tests of the module tried counts for nobody."""
    web.platform.throttle = Throttle()
    web.platform.sign_ups = Throttle(address_limit=SIGN_UPS_AN_ADDRESS)
    web.platform.resets = Throttle(name_limit=LINKS_A_NAME)


@pytest.fixture(scope="module")
def manager(web: Web) -> User:
    return web.add_user("manager1", manager=True)


@pytest.fixture(scope="module")
def trader(web: Web) -> User:
    return web.add_user("trader1")


@pytest.fixture(scope="module")
def away(web: Web, manager: User) -> Product:
    """A product whose matching server is away."""
    return web.add_product("away", by=manager)
