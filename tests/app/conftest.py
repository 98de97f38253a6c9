"""Fixtures of the platform's tests: a venue that a file's tests share, and who is in it."""

from collections.abc import Iterator

import pytest

from app.models.accounts import User
from app.models.products import Product
from tests.app.venue import Web, running_web


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with running_web(tmp_path_factory.mktemp("var")) as web:
        yield web


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
