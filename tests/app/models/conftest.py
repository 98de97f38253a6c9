"""Who trades in the models' tests."""

import pytest

from app.models.db import DAL, insert, transaction
from tests.database import add_user


@pytest.fixture
def alice(db: DAL) -> int:
    """A trader with 1,000.00, in a market whose journal is followed up to record 10."""
    with transaction(db, write=True):
        insert(db, "log_position", ticker="intc", lineage="a", seq=10, h="")
    return add_user(db, "alice", cash="1000").id
