"""The web server: the platform's pages, its orders and its live feed, at one port.

    python -m app.webserver --port 8000

It brings the database's tables up to date, connects to the matching server of each active product
(and goes on trying while one is away), and serves until a signal stops it.
"""

if __name__ == "__main__":  # before the other imports, so that Ctrl-C ends these in silence
    from matching.exits import end_on_interrupt

    end_on_interrupt()

import argparse
import asyncio
import errno
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tornado.netutil import bind_sockets
from tornado.web import Application

from app.controllers import amend, orders, rules
from app.controllers.base import Platform
from app.controllers.realtime import FRAME_LIMIT
from app.models import products, settings
from app.models.db import DatabaseAway, end_waits, migrate
from app.routes import routes
from matching import config, exits
from matching.alarms import Alarms
from matching.config import Var
from matching.disk import SystemDisk
from matching.exits import ExitCode, Fatal
from matching.httpserver import HttpServer, check_files
from matching.pidfile import pidfile
from matching.ports import Locked

EPILOG = """\
exit codes: 0 stopped by a signal, 2 usage, 69 the port is taken or the database away, 75 the
database's file is none, 78 var/, the key or the database's address is not good

settings, as EMTE_<NAME> or in emte.toml, beside the flags':
  url            the platform's address for browsers, where links in e-mails lead
  smtp_host      the mail server, with smtp_port (587), smtp_from and, if it asks for a log-in,
                 smtp_user, smtp_password; without it links to new passwords stand in this log
  manager_signup open (anybody may sign up as a manager) or closed

examples:
  emte-web                                      the platform at http://127.0.0.1:8000/
  EMTE_URL=https://emte.example emte-web         where links in its e-mails lead
  emte-web --port 80 --host 0.0.0.0 --database postgres://emte:secret@db/emte
"""

DISCARD_LIMIT = 16 * 1024 * 1024
"""Bodies up to this are read to their end and refused with a sentence; larger ones are cut off."""

BODY_SECONDS = 10.0
"""How long a body may take to arrive."""

EVERY_ADDRESS = {
    "0.0.0.0": ("192.0.2.1",),
    "::": ("2001:db8::1",),
    "": ("192.0.2.1", "2001:db8::1"),
}
"""Hosts that mean all addresses of this machine, of one kind or both; with each kind's example."""

PING_SECONDS = 20
"""PROTOCOL §4: ping every 20 s; a browser that answers none until the next one is gone."""

LOOK_SECONDS = 1.0
"""How often the server looks whether there is something to raise an alarm about."""

CLOSE_SECONDS = 1.5
"""How long answers that are on their way may take when the server stops, and then good-byes."""

END_SECONDS = 4.5
"""After so long it ends whoever does not answer it: a supervisor kills it after five."""


log = logging.getLogger("webserver")


def make_app(platform: Platform) -> Application:
    """The Tornado application: every route, for one platform."""
    return Application(
        routes(platform),
        cookie_secret=platform.session_secret,
        log_function=lambda handler: None,  # pages are no events that an operator acts on
        websocket_max_message_size=FRAME_LIMIT,
        websocket_ping_interval=PING_SECONDS,
        websocket_ping_timeout=PING_SECONDS,
    )


async def serve(platform: Platform, sockets: list[socket.socket], stop: asyncio.Event) -> None:
    """Serve on bound sockets until `stop` is set; then answer what is on its way, and end."""
    transactions = platform.transactions
    server = HttpServer(make_app(platform), max_body_size=DISCARD_LIMIT, body_timeout=BODY_SECONDS)
    server.add_sockets(sockets)
    asyncio.get_running_loop().set_exception_handler(server.on_loop_exception)
    background = [
        asyncio.create_task(platform.markets.follow(lambda: transactions.read(products.served))),
        asyncio.create_task(orders.keep_reconciling(platform, orders.reconcile, amend.reconcile)),
        asyncio.create_task(rules.keep_telling(platform)),
        asyncio.create_task(_keep_looking_around(server)),
    ]
    stopping = asyncio.create_task(stop.wait())
    try:
        # A background task never ends by itself: if one does, its error is the server's.
        await asyncio.wait([stopping, *background], return_when=asyncio.FIRST_COMPLETED)
    finally:
        server.stop()
        await _let_work_land(platform)
        for task in (stopping, *background):
            task.cancel()
        closing = asyncio.create_task(server.close_all_connections())
        await asyncio.wait([stopping, *background, closing], timeout=CLOSE_SECONDS)
        platform.close()
    for task in background:
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            raise error


async def _keep_looking_around(server: HttpServer) -> None:
    """Log what an operator has to know, when it begins and when it is over."""
    alarms = Alarms(log)
    while True:
        sentence = server.alarm()
        alarms.update({"files": sentence} if sentence else {})
        await asyncio.sleep(LOOK_SECONDS)


async def _let_work_land(platform: Platform) -> None:
    """Give orders that were sent a moment to be answered, and e-mails to be handed over.

    The reconciler knows the other orders; who waits for another e-mail asks again.
    """
    on_their_way = [sent for market in platform.markets for sent in market.being_sent.values()]
    on_their_way += platform.errands
    if on_their_way:
        await asyncio.wait(on_their_way, timeout=CLOSE_SECONDS)


async def run(*, port: int, host: str, var: Var, database_uri: str) -> None:
    """Bind, bring the database up to date, and serve until SIGTERM or SIGINT."""
    sockets = bind(port, host)
    bound_port = sockets[0].getsockname()[1]
    try:
        migrate(database_uri, var)
        platform = Platform(
            database_uri,
            var=var,
            venue_key=config.load_venue_key(var),
            url=settings.public_url(browser_urls(host, bound_port)[0]),
            smtp=settings.smtp(),
            manager_signup=settings.manager_signup(),
        )
    except DatabaseAway as away:
        raise Fatal(ExitCode.UNAVAILABLE, f"the database is away: {away}") from away
    stop = asyncio.Event()

    def end() -> None:
        if not stop.is_set():
            stop.set()
            end_waits(seconds=CLOSE_SECONDS)
            _end_anyway()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end)
    with _own_pidfile(var, bound_port):
        urls = " and ".join(browser_urls(host, bound_port))
        print(f"webserver: listening on {urls}", flush=True)
        await serve(platform, sockets, stop)


def _end_anyway() -> None:
    """End this process soon, whatever a thread of it waits for: a mail server, a name, a lock.

    That is no worse than a kill: what is not committed did not happen, what is was answered.
    """

    def end() -> None:
        names = ", ".join(thread.name for thread in threading.enumerate() if thread is not timer)
        log.warning("ending without who still waits for an answer: %s", names)
        os._exit(ExitCode.DONE)

    timer = threading.Timer(END_SECONDS, end)
    timer.daemon = True
    timer.start()


@contextmanager
def _own_pidfile(var: Var, port: int) -> Iterator[None]:
    """Hold `web.pid`; a further web server in the same var/ adds its port, so that each is found.

    Which is the first, a lock says: it ends with its process. A process id that a killed server
    left may be another program's by now.
    """
    try:
        lock = SystemDisk().lock(var.run_dir / "the-web.lock")
    except Locked:
        with pidfile(var.run_dir, f"web-{port}"):
            yield
        return
    try:
        with pidfile(var.run_dir, "web"):
            yield
    finally:
        lock.release()


def browser_urls(host: str, port: int) -> list[str]:
    """Where browsers find what listens on a host: from this machine, then from its network.

    >>> browser_urls("127.0.0.1", 8000), browser_urls("::1", 80)
    (['http://127.0.0.1:8000/'], ['http://[::1]:80/'])
    """
    names = [host]
    if host in EVERY_ADDRESS:
        names = ["localhost", *filter(None, map(_own_address, EVERY_ADDRESS[host]))]
    return [
        f"http://[{name}]:{port}/" if ":" in name else f"http://{name}:{port}/" for name in names
    ]


def _own_address(elsewhere: str) -> str:
    """The address that this machine has towards another one; "" without a way there."""
    family = socket.AF_INET6 if ":" in elsewhere else socket.AF_INET
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((elsewhere, 9))  # it only chooses a way: nothing is sent
        return str(probe.getsockname()[0])
    return ""


def bind(port: int, host: str) -> list[socket.socket]:
    """Listening sockets; Fatal (69) if the port is taken or the host is not ours."""
    try:
        return bind_sockets(port, host)
    except (OSError, OverflowError) as error:
        reason = "it is taken" if getattr(error, "errno", 0) == errno.EADDRINUSE else error
        raise Fatal(
            ExitCode.UNAVAILABLE, f"cannot listen on port {port} of {host}: {reason}"
        ) from error


def main() -> None:
    sys.exit(exits.run("webserver", _body))


def _body() -> None:
    parser = argparse.ArgumentParser(
        prog="webserver",
        description="Serve the trading platform: pages, orders and the live feed.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=8000, help="0: any free one (default: 8000)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--var", metavar="DIR", help="where files lie ($EMTE_VAR, ./var)")
    parser.add_argument("--database", metavar="URI", help="($EMTE_DATABASE, var/emte.db)")
    arguments = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(name)s %(levelname)s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )
    check_files()
    var = config.find_var(arguments.var)
    var.make()
    database_uri = settings.database_uri(var, arguments.database)
    with _runner() as runner:
        runner.run(
            run(port=arguments.port, host=arguments.host, var=var, database_uri=database_uri)
        )


def _runner() -> asyncio.Runner:
    """A runner on uvloop where it installs: the feeds of many browsers cost a third less."""
    try:
        import uvloop
    except ImportError:
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


if __name__ == "__main__":
    main()
