"""What log2db's tests run on: a migrated database, of each kind, in a `var/` of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.models.db import DAL, close
from matching.config import Var
from tests.database import make_database, make_var


@pytest.fixture
def var(tmp_path: Path, each_database: str) -> Var:
    return make_var(tmp_path)


@pytest.fixture
def db(var: Var) -> Iterator[DAL]:
    database = make_database(var)
    yield database
    close(database)
