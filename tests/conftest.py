"""What every test runs under: nobody's environment, and a log that stays free of errors."""

import logging
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("emte", deadline=None, print_blob=True)
settings.load_profile("emte")


class _ErrorLog(logging.Handler):
    """Keeps the log records of level ERROR and above."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EMTE_VAR", "EMTE_DATABASE", "EMTE_HMAC_KEY"):
        monkeypatch.delenv(name, raising=False)


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
