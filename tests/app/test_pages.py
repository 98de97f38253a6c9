"""Every page in every form, for everybody: who is shown what, and what no answer may hold."""

import csv

import pytest

from app.models.accounts import User
from app.models.products import Product
from app.routes import PAGES
from tests.app.venue import Web

TABLES = [path for path, page in PAGES.items() if page.table is not None]


def address(path: str, form: str, key: int) -> str:
    """A page of the route table, in one of its forms, of the row `key`."""
    function, has_key, _ = path.partition("/ID")
    return f"{function}{form}/{key}" if has_key else f"{function}{form}"


@pytest.mark.parametrize("path", [path for path in TABLES if path != "/"])
def test_a_table_has_its_heading_with_rows_and_without(
    path: str, web: Web, manager: User, away: Product
) -> None:
    page = PAGES[path]
    answer = web.browser(manager).get(address(path, ".csv", away.id))
    heading, *lines = csv.reader(answer.text.splitlines())
    assert heading == list(page.columns)
    assert all(len(line) == len(heading) for line in lines)
    shown = web.browser(manager).get(address(path, ".json", away.id)).json()[page.table]
    assert len(shown) == len(lines)
    assert all(set(row) == set(heading) for row in shown)
