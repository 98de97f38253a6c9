"""SIGTERM ends every program soon, also one that waits for somebody who does not answer."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2
import pytest

from app.models import products
from app.models.db import DAL, MIGRATION_LOCK, now, transaction
from matching.config import Var
from tests.app.test_webserver import MODULE, ask, started
from tests.app.venue import Wire
from tests.database import add_user, command, only_postgres, uri_of
from tests.processes import running
from tests.scripts.venue import pid_of, processes_of
from tests.waiting import free_port, wait_until


@contextmanager
def to_the_database(var: Var) -> Iterator[tuple[Wire, str]]:
    """A wire to PostgreSQL, and the URI of the database at its near end."""
    url = urlsplit(uri_of(var))
    assert url.port is not None
    wire = Wire(url.port)
    try:
        yield wire, url._replace(netloc=f"{url.username}@127.0.0.1:{wire.port}").geturl()
    finally:
        wire.close()


@only_postgres
def test_a_web_server_whose_database_hangs_ends(var: Var, db: DAL) -> None:
    with (
        to_the_database(var) as (wire, uri),
        running(*MODULE, "--port", "0", var=var.root, EMTE_DATABASE=uri) as server,
    ):
        url = started(server)
        assert ask(f"{url}health/ready")[0] == 200
        wire.is_deaf = True
        with socket.create_connection(("127.0.0.1", urlsplit(url).port or 0)) as page:
            page.sendall(b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
            wait_until(lambda: wire.lost, "a question that is not answered")
            assert server.terminate() == 0
    assert not (var.run_dir / "web.pid").exists()


def test_a_web_server_whose_mail_server_hangs_ends(tmp_path: Path) -> None:
    with ExitStack() as held:
        silent = held.enter_context(socket.create_server(("127.0.0.1", 0)))
        server = held.enter_context(
            running(
                *("-c", _MAILS, "--port", "0"),
                var=tmp_path,
                EMTE_SMTP_HOST="127.0.0.1",
                EMTE_SMTP_FROM="emte@example.org",
                EMTE_SMTP_PORT=str(silent.getsockname()[1]),
            )
        )
        started(server)
        held.enter_context(silent.accept()[0])
        assert server.terminate() == 0
        assert "ending without who still waits for an answer: MainThread, mail_0" in server.output
    assert not (Var(tmp_path).run_dir / "web.pid").exists()


# A web server that has an e-mail to hand over as soon as it serves.
_MAILS = """
from app import webserver
from app.controllers import mail
webserver.CLOSE_SECONDS, webserver.END_SECONDS = 0.2, 2.0
serve = webserver.serve
def serve_and_mail(platform, *rest):
    platform.start_errand(mail.send(platform, to="a@b.c", subject="Hello", text="Hello"))
    return serve(platform, *rest)
webserver.serve = serve_and_mail
webserver.main()
"""


@only_postgres
def test_a_venue_whose_database_hangs_ends_in_order(var: Var, db: DAL) -> None:
    manager = add_user(db, "boss", manager=True)
    form = {"name": "intc", "unit_price": "50", "port": str(free_port()), "active": "on"}
    with transaction(db, write=True):
        products.register(db, products.validate(form), by=manager, at=now())
    program = ("scripts/serve.py", "--port", str(free_port()), "--var", str(var.root))
    with (
        to_the_database(var) as (wire, uri),
        running(*program, var=var.root, EMTE_DATABASE=uri) as serve,
    ):
        for name in ("web", "match-intc", "log2db-intc"):
            wait_until(lambda name=name: pid_of(var.root, name), name)  # type: ignore[misc]
        wire.is_deaf = True
        wait_until(lambda: wire.lost, "a question that is not answered")
        assert serve.terminate() == 0
        assert "was killed" not in serve.output
    assert processes_of(var.root) == {}


@only_postgres
@pytest.mark.parametrize(
    "program",
    [
        ("scripts/serve.py", "--port", "0"),
        ("scripts/demo.py", "--port", "0"),
        ("-m", "log2db", "-A", "intc"),
    ],
)
def test_who_waits_until_another_machine_has_migrated_ends(
    var: Var, db: DAL, program: tuple[str, ...]
) -> None:
    with closing(psycopg2.connect(uri_of(var))) as other, other.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
        with running(*program, var=var.root) as waiting:
            wait_until(lambda: command(uri_of(var), _WAITING), "the wait for the lock")
            assert waiting.terminate() == 0
    assert processes_of(var.root) == {}


_WAITING = (
    "SELECT 1 FROM pg_locks JOIN pg_database ON oid = database"
    " WHERE datname = current_database() AND locktype = 'advisory' AND NOT granted"
)
