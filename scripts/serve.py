"""Serve a venue: the web app, and for every active product its matching server and its log2db.

The products are those of the database; one that is registered, edited or switched off while the
venue runs is followed within seconds. One that is switched off is served on until no trader has an
open order in it. A product whose URLs name another machine is served there, and not here. What ends
is started again (scripts/supervisor.py). When a manager asks for a new run, it is begun here
(scripts/newrun.py).

At the end, in this order: robots, so that no more orders come; the web app; the matching servers;
log2db last, once it has settled what they wrote.
"""

if __name__ == "__main__":  # before the other imports, so that Ctrl-C ends these in silence
    from matching.exits import end_on_interrupt

    end_on_interrupt()

import argparse
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from types import FrameType

from app.models import db as database
from app.models import products, runrequest, settings
from app.models.products import Product
from app.webserver import browser_urls
from matching import config, exits
from matching.config import Var
from matching.exits import ExitCode, Fatal
from matching.journal import JournalDamaged, Mark, durable_path, settled_path
from matching.order import format_price
from matching.pidfile import pidfile
from scripts import newrun
from scripts.supervisor import Program, Role, State, Supervisor, sole_supervisor

EPILOG = """\
Needs a database with products (a manager registers them in the web app, or scripts/demo.py does).
What the processes print is in var/run/NAME.out.

exit codes: 0 stopped by a signal, 2 usage, 69 the port is taken, the database is away, or a venue
runs in this var/ already, 78 var/ or the database's address is not good

examples:
  python scripts/serve.py                             the venue at http://127.0.0.1:8000/
  python scripts/serve.py --port 80 --host 0.0.0.0    for the whole network: phones too
"""

LOOK_SECONDS = 2.0
"""How often the products are read from the database."""

STEP_SECONDS = 0.1
"""How often the children are looked after."""

DATABASE_SECONDS = 1.0
"""How long the database may take to answer once the venue is to stop."""

SETTLE_SECONDS = 10.0
"""How long log2db may take at the end to settle what the matching servers wrote."""

log = logging.getLogger("serve")


class Venue:
    """The processes of a venue, kept in step with the products of its database."""

    def __init__(
        self,
        var: Var,
        *,
        uri: str,
        web_host: str,
        web_port: int,
        supervisor: Supervisor,
        say: Callable[[str], None],
    ) -> None:
        """Finish what a killed supervisor left of a new run, before anything is started."""
        self._var = var
        self._db = database.open_database(uri)
        self._supervisor = supervisor
        self._say = say
        self._key = config.choose_key(None, var)
        self._web = Program(
            "web",
            Role.WEB,
            "app.webserver",
            ("--port", str(web_port), "--host", web_host, "--var", str(var.root)),
        )
        self._next_look = 0.0
        self._knows_products = False
        self._is_database_away = False
        self._paused: tuple[Role, ...] = ()
        self._renewal: Generator[None, None, None] | None = None
        self._programs: dict[tuple[str, int, int, int], tuple[Program, Program]] = {}
        self.products: list[Product] = []
        self.robots: list[Program] = []
        if left := newrun.put_away(var, self._db):
            say(f"moved the journals that were left of an ended run: {', '.join(left)}")
        newrun.judge_left_request(var, self._db, say)
        self._renewal = newrun.reopen_left(self, var, self._db, key=self._key)

    @property
    def is_renewing(self) -> bool:
        """Whether a new run is being begun: markets are going, and others will come."""
        return self._renewal is not None

    def step(self) -> None:
        """Look after the processes; from time to time, after the products."""
        self._renew()
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            self._look_for_products()
            self._supervisor.want(self._wanted())
        self._supervisor.step()

    def stop(self) -> None:
        """End all processes, in the order in which one feeds the next."""
        if self._renewal is not None:
            self._renewal.close()
        self._supervisor.stop(Role.ROBOT)
        self._supervisor.stop(Role.WEB)
        self._supervisor.stop(Role.MATCHING_SERVER)
        self._wait_until_settled()
        self._supervisor.stop(Role.LOG2DB)

    def pause(self, *roles: Role) -> None:
        """Programs of these roles, and of no others, are not wanted from now on."""
        self._paused = roles
        self._supervisor.want(self._wanted())

    def runs(self, role: Role) -> bool:
        """Whether a process of this role is there, wanted or on its way out."""
        return self._supervisor.runs(role)

    def are_up(self) -> bool:
        """Whether the products are known, and the matching server of each is up."""
        states = (self._supervisor.state(f"match-{product.name}") for product in self.products)
        return self._knows_products and all(state is State.UP for state in states)

    def forget_programs(self) -> None:
        """Journals begin anew: so do the arguments of those who write them."""
        self._programs.clear()

    def behind(self) -> str:
        """The products whose running log2db has not settled all of the journal."""
        return ", ".join(
            product.name
            for product in self.products
            if self._supervisor.state(f"log2db-{product.name}") is not State.DOWN
            and unsettled(self._var, product.name)
        )

    def _renew(self) -> None:
        """Begin a new run if one is asked for; go on with the one that is being begun."""
        if self._renewal is None:
            request = runrequest.pending(self._var)
            if request is None:
                return
            self._renewal = newrun.carry_out(
                request, self, self._var, self._db, key=self._key, say=self._say
            )
        try:
            next(self._renewal)
        except StopIteration:
            self._renewal = None

    def _look_for_products(self) -> None:
        try:
            with database.transaction(self._db):
                self.products = [
                    product
                    for product in products.served(self._db)
                    if product.host in newrun.LOOPBACK
                ]
        except database.DatabaseAway as away:
            if not self._is_database_away:
                log.warning("the database is away (%s); the known products go on", away)
            self._is_database_away = True
        else:
            if self._is_database_away:
                log.info("the database is there again")
            self._is_database_away = False
            self._knows_products = True

    def _wanted(self) -> list[Program]:
        return [program for program in self._all_programs() if program.role not in self._paused]

    def _all_programs(self) -> Iterable[Program]:
        yield self._web
        for product in self.products:
            yield from self._programs_of(product)
        yield from self._still_settling()
        yield from self.robots

    def _still_settling(self) -> Iterable[Program]:
        """The log2db of products that were switched off, until all they traded is settled."""
        active = {product.name for product in self.products}
        for (ticker, *_), (server, follower) in self._programs.items():
            is_settling = self._supervisor.is_running(server.name) or unsettled(self._var, ticker)
            if ticker not in active and is_settling:
                yield follower

    def _programs_of(self, product: Product) -> tuple[Program, Program]:
        """The programs of a product, the same until its port or grid is changed."""
        key = (product.name, product.port, product.tick, product.lot)
        if key not in self._programs:
            self._programs[key] = (
                _matching_server(product, self._var),
                _log2db(product, self._var),
            )
        return self._programs[key]

    def _wait_until_settled(self) -> None:
        """Wait while a running log2db is behind the journal of its product; not for ever."""
        end = time.monotonic() + (0 if self._is_database_away else SETTLE_SECONDS)
        while behind := self.behind():
            if time.monotonic() > end or self._supervisor.is_hurried:
                log.warning("not yet settled, log2db goes on at its next start: %s", behind)
                return
            time.sleep(0.02)


def _matching_server(product: Product, var: Var) -> Program:
    arguments = ["-p", str(product.port), "-t", product.name]
    arguments += ["--tick", format_price(product.tick), "--lot", str(product.lot)]
    # The journal keeps the price that it began with, and a server that is given another refuses to
    # start; but a unit price may be edited.
    if not var.journal_file(product.name).exists():
        arguments += ["--price", format_price(product.unit_price)]
    arguments += ["--var", str(var.root)]
    name = f"match-{product.name}"
    return Program(name, Role.MATCHING_SERVER, "matching.matchingserver", tuple(arguments))


def _log2db(product: Product, var: Var) -> Program:
    arguments = ("-A", product.name, "--var", str(var.root))
    return Program(f"log2db-{product.name}", Role.LOG2DB, "log2db", arguments)


def unsettled(var: Var, ticker: str) -> int:
    """How many records of a journal are durable and not yet in the database."""
    journal = var.journal_file(ticker)
    durable, settled = read_mark(durable_path(journal)), read_mark(settled_path(journal))
    if durable is None:
        return 0
    if settled is None or settled.lineage != durable.lineage:
        return durable.seq
    return max(0, durable.seq - settled.seq)


def read_mark(path: Path) -> Mark | None:
    """A mark of a journal; None if there is none, or none that can be read."""
    try:
        return Mark.decode(path.read_bytes(), path.name)
    except (FileNotFoundError, JournalDamaged):
        return None


def require_free_port(host: str, port: int) -> None:
    """Fatal (69) if the web app could not listen there."""
    try:
        addresses = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = addresses[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise Fatal(ExitCode.UNAVAILABLE, f"cannot listen on {host}:{port}: {reason}") from error


def migrate(uri: str, var: Var) -> None:
    """Bring the database up to date; Fatal (69) if it is away."""
    try:
        database.migrate(uri, var)
    except database.DatabaseAway as away:
        raise Fatal(ExitCode.UNAVAILABLE, f"the database is away: {away}") from away


class Signals:
    """SIGTERM, SIGINT and SIGHUP: the first asks to stop, a second to hurry.

    What is called then is called within whatever is at work: it may do no more than set something.
    """

    def __init__(
        self, *, on_first: Callable[[], None] = lambda: None, on_second: Callable[[], None]
    ) -> None:
        self.is_stop_asked = False
        self._on_first = on_first
        self._on_second = on_second
        signal.signal(signal.SIGTERM, self._note)
        signal.signal(signal.SIGINT, self._note)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it ignored
            signal.signal(signal.SIGHUP, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.is_stop_asked:
            self._on_second()
        else:
            self.is_stop_asked = True
            self._on_first()


def stop_signals(supervisor: Supervisor) -> Signals:
    """The signals of a venue that runs, also while it waits for a database that does not answer."""
    return Signals(
        on_first=lambda: database.end_waits(seconds=DATABASE_SECONDS), on_second=supervisor.hurry
    )


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="serve",
        description="Run the web app, and a matching server and log2db for every active product.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=8000, help="the web app's port (8000)")
    parser.add_argument("--host", default="127.0.0.1", help="the web app's address (127.0.0.1)")
    parser.add_argument("--var", help="the folder of everything that is written (var/)")
    return parser.parse_args()


def main() -> None:
    sys.exit(exits.run("serve", _main))


def _main() -> None:
    arguments = _parse_arguments()
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(name)s %(levelname)s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )
    var = config.find_var(arguments.var)
    var.make()
    uri = settings.database_uri(var)
    supervisor = Supervisor(
        var,
        on_start=lambda program: log.info("%s is started", program.name),
        on_end=lambda program, what: log.warning("%s %s", program.name, what),
    )
    exits.interrupt_on_stop()
    with sole_supervisor(var), pidfile(var.run_dir, "serve"):
        require_free_port(arguments.host, arguments.port)
        migrate(uri, var)
        venue = Venue(
            var,
            uri=uri,
            web_host=arguments.host,
            web_port=arguments.port,
            supervisor=supervisor,
            say=log.info,
        )
        signals = stop_signals(supervisor)
        urls = " and ".join(browser_urls(arguments.host, arguments.port))
        log.info("the venue is at %s (pid %d)", urls, os.getpid())
        try:
            while not signals.is_stop_asked:
                venue.step()
                time.sleep(STEP_SECONDS)
            log.info("stopping")
        finally:
            venue.stop()
        log.info("stopped")


if __name__ == "__main__":
    main()
