"""What every test runs under: nobody's environment, and a log that stays free of errors."""

import logging
import math
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from app.models.db import DAL, _waits, close
from matching.config import Var
from tests.database import DATABASES, drop_databases, make_database, make_var, own_database

settings.register_profile("emte", deadline=None, print_blob=True)
settings.load_profile("emte")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell has started the tests in the background: those they start must hear Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)

_LONG = ("end_to_end", "scripts", "simulation")
"""The folders whose tests are long: whole venues, and stories by the thousand."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the long tests run first: what comes last is short, so all processes end together.

    In this order xdist hands out the files (`--no-loadscope-reorder`); by itself it would begin
    with those that have the most tests, and end with one process in a long one.
    """
    items.sort(key=lambda item: item.path.parent.name not in _LONG)


class _ErrorLog(logging.Handler):
    """Keeps the log records of level ERROR and above."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EMTE_VAR", "EMTE_DATABASE", "EMTE_HMAC_KEY", "EMTE_SMTP_HOST", "EMTE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _waits_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that ends ends its process's waits for PostgreSQL; here the process goes on."""
    monkeypatch.setattr(_waits, "end", math.inf)


@pytest.fixture(scope="session", autouse=True)
def _databases() -> Iterator[None]:
    yield
    drop_databases()


@pytest.fixture(params=DATABASES)
def each_database(
    request: pytest.FixtureRequest, _own_environment: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The kind of database that this test, and each process that it starts, runs on: all of them.

    PostgreSQL is an empty one of the test's own, named by $EMTE_DATABASE.
    """
    with own_database(request.param) as uri:
        if uri is not None:
            monkeypatch.setenv("EMTE_DATABASE", uri)
        yield request.param


@pytest.fixture
def var(tmp_path: Path, each_database: str) -> Var:
    """A `var/` of the test's own."""
    return make_var(tmp_path)


@pytest.fixture
def db(var: Var) -> Iterator[DAL]:
    """Its database, migrated and empty."""
    database = make_database(var)
    yield database
    close(database)


@pytest.fixture(autouse=True)
def _error_log() -> Iterator[_ErrorLog]:
    log = _ErrorLog()
    logging.getLogger().addHandler(log)
    yield log
    logging.getLogger().removeHandler(log)
    messages = [record.getMessage() for record in log.records]
    assert not messages, f"errors in the log: {messages}"


@pytest.fixture
def expected_errors(_error_log: _ErrorLog) -> Iterator[list[logging.LogRecord]]:
    """The error records of this test, which is meant to make them; it must make at least one."""
    yield _error_log.records
    assert _error_log.records, "the test expected an error in the log; there is none"
    _error_log.records.clear()
