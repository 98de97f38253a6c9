"""The demo: a venue with a manager, nine traders, ten products, and robots that trade them.

It fills the database as the demo of 2010 did (users whose password is their username, random
four-letter tickers on ports between 9000 and 10000), serves the venue (scripts/serve.py), lets the
house keep ten price levels a side in each product (scripts/house.py), and starts two robots for
each. What is there already stays: a second demo on the same var/ goes on where the first one ended.
"""

if __name__ == "__main__":  # before the other imports, so that Ctrl-C ends these in silence
    from matching.exits import end_on_interrupt

    end_on_interrupt()

import argparse
import asyncio
import os
import random
import shutil
import socket
import string
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from app.models import accounts, products, settings
from app.models import db as database
from app.models.accounts import Registration, User
from app.models.products import Product
from app.webserver import browser_urls
from matching import config, exits
from matching.client import Answer, Client, Refused
from matching.config import Var
from matching.exits import ExitCode, Fatal
from matching.order import PRICE_SCALE
from matching.pidfile import pidfile
from scripts.house import House
from scripts.serve import (
    STEP_SECONDS,
    Signals,
    Venue,
    migrate,
    require_free_port,
    stop_signals,
    unsettled,
)
from scripts.supervisor import Program, Role, State, Supervisor, sole_supervisor

EPILOG = """\
Then open the address that it prints, and log in as trader1 (password trader1) or manager1
(password manager1). Ctrl-C, or stop_all.sh, stops everything.

exit codes: 0 stopped by a signal, or (with --once) everything has traded, 2 usage, 69 the port is
taken, a venue runs in this var/ already, or (with --once) something has not traded in two minutes,
78 var/ or the database's address is not good

examples:
  python scripts/demo.py                                 ten tickers, at http://127.0.0.1:8000/
  python scripts/demo.py --tickers 2 --port 8080 --once  a trial: two tickers, until they trade
"""

MANAGER = "manager1"
TRADERS = tuple(f"trader{number}" for number in range(1, 10))
ROBOTS_TRADE_FOR = TRADERS[1:]
"""trader1 is left to the person who tries the demo: nobody else moves that account."""

PORTS = range(9000, 10000)
ROBOTS_PER_TICKER = 2
ROBOT_WAIT_SECONDS = 1.0
ROBOT_CLEAR_TURNS = 50
"""So a product's book holds some 200 orders of the robots, and not 2,500 more each hour."""

TABLE_SECONDS = 1.0
PLAIN_SECONDS = 10.0
ONCE_SECONDS = 120.0
"""How long `--once` waits for the last ticker to trade."""


class Seed:
    """Fills the database with what a demo needs and is not there yet."""

    def __init__(self, var: Var, uri: str, dice: random.Random) -> None:
        self._var = var
        self._db = database.open_database(uri)
        self._dice = dice

    def users(self) -> dict[str, int]:
        """Register manager1 and trader1 … trader9; username → owner of all of them."""
        missing = [name for name in (MANAGER, *TRADERS) if self._owner(name) is None]
        # Hashing takes a third of a second each, and releases the interpreter meanwhile.
        with ThreadPoolExecutor() as pool:
            hashes = pool.map(accounts.hash_password, missing)
            for name, password_hash in zip(missing, hashes, strict=True):
                registration = self._registration(name)
                try:
                    with database.transaction(self._db, write=True):
                        accounts.register(self._db, registration, password_hash, at=database.now())
                except database.Invalid as invalid:
                    reason = "; ".join(invalid.errors.values())
                    raise Fatal(
                        ExitCode.CONFIGURATION, f"cannot register {name}: {reason}"
                    ) from invalid
                print(f"Register user:  {name}", flush=True)
        owners = {name: self._owner(name) for name in (MANAGER, *TRADERS)}
        return {name: owner for name, owner in owners.items() if owner is not None}

    def products(self, *, count: int, manager: int) -> None:
        """Register random products until there are `count` active ones."""
        with database.transaction(self._db):
            known = products.every(self._db)
            by = accounts.get(self._db, manager)
        assert by is not None
        if not by.manager:
            raise Fatal(ExitCode.CONFIGURATION, f"{MANAGER} is not a manager in this database")
        tickers = {product.name for product in known}
        ports = {product.port for product in known}
        for _ in range(count - sum(product.active for product in known)):
            ticker = self._free_ticker(tickers)
            port = self._free_port(ports)
            self._register_product(ticker, port, by)
            tickers.add(ticker)
            ports.add(port)
            print(f"Register ticker: {ticker} at port {port}", flush=True)

    def _owner(self, username: str) -> int | None:
        with database.transaction(self._db):
            return accounts.find_credentials(self._db, username).owner

    def _registration(self, username: str) -> Registration:
        return Registration(
            username=username,
            first_name=username.rstrip(string.digits).capitalize(),
            last_name=username.lstrip(string.ascii_lowercase),
            email=f"{username}@example.com",
            password=username,
            manager=username == MANAGER,
            actual_cash=self._dice.randint(1, 100) * 1000 * PRICE_SCALE,
        )

    def _register_product(self, ticker: str, port: int, by: User) -> None:
        form = products.validate(
            {
                "name": ticker,
                "description": f"{ticker.capitalize()} Inc.",
                "unit_price": f"{self._dice.randint(100_00, 200_00) / 100:.2f}",
                "port": str(port),
                "active": "on",
                "allow_short": "on",
                "collar": "10",  # and no band: it would refuse many an order of the robots
            }
        )
        with database.transaction(self._db, write=True):
            products.register(self._db, form, by=by, at=database.now())

    def _free_ticker(self, taken: set[str]) -> str:
        while True:
            ticker = "".join(self._dice.choices(string.ascii_lowercase, k=4))
            if ticker not in taken:
                return ticker

    def _free_port(self, taken: set[int]) -> int:
        """A port that no product has and on which nobody listens."""
        for port in self._dice.sample(PORTS, len(PORTS)):
            if port not in taken and _is_free(port):
                return port
        raise Fatal(ExitCode.UNAVAILABLE, f"no port is free between {PORTS[0]} and {PORTS[-1]}")


class Market:
    """What the demo knows of one product, whose feed it follows; and the house in it."""

    def __init__(self, product: Product, key: str) -> None:
        self.product = product
        self.last = ""
        self.seq = 0
        self.trades = 0
        self._trades_before: int | None = None
        self._client = Client(
            product.ws_url, ticker=product.name, key=key, on_message=self._on_message
        )
        self.house = House(product, self._client)
        self.watching = asyncio.ensure_future(self._watch())

    @property
    def has_traded(self) -> bool:
        """Whether a trade was made since this demo began."""
        return self._trades_before is not None and self.trades > self._trades_before

    async def leave(self) -> None:
        """Stop following the product, and close the connection."""
        self.watching.cancel()
        await asyncio.gather(self.watching, return_exceptions=True)

    async def _watch(self) -> None:
        """Follow the feed, and let the house keep its levels, until cancelled."""
        try:
            await asyncio.gather(self._client.follow(channels=("trades",)), self.house.keep())
        except Refused as refused:
            raise Fatal(
                ExitCode.CONFIGURATION, f"the key is not that of {self.product.name}: {refused}"
            ) from refused

    def _on_message(self, message: Answer) -> None:
        if "seq" in message:
            self.seq = message["seq"]
        self.last = message.get("last") or self.last
        tids = [trade["tid"] for trade in message.get("trades", ())]
        self.trades = max([self.trades, *tids])
        if self._trades_before is None and message["type"] == "snapshot":
            self._trades_before = self.trades


def _basis(product: Product) -> tuple[object, ...]:
    """What the house and the robots of a product stand on; they outlive a change of its rules."""
    return (product.name, product.ws_url, product.unit_price, product.tick, product.lot)


class Screen:
    """Lines that scroll, and below them, on a terminal, a table that is kept up to date."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._table: list[str] = []
        self._next_table = 0.0 if self._is_terminal else time.monotonic() + PLAIN_SECONDS

    def say(self, *lines: str) -> None:
        """Print lines, above the table."""
        self._print(self._table, [*lines, *self._table])

    def show(self, table: Callable[[], Iterable[str]]) -> None:
        """Show the table as it is now, once a second; into a pipe, every ten."""
        now = time.monotonic()
        if now < self._next_table:
            return
        if self._is_terminal:
            self._next_table = now + TABLE_SECONDS
            size = shutil.get_terminal_size()
            shown = self._table
            self._table = [line[: size.columns - 1] for line in table()][: size.lines - 2]
            self._print(shown, self._table)
        else:
            self._next_table = now + PLAIN_SECONDS
            self.say(*table())

    def leave(self, lines: Iterable[str]) -> None:
        """Print lines in place of the table, for good."""
        shown, self._table = self._table, []
        self._print(shown, [*lines])

    def _print(self, shown: list[str], lines: list[str]) -> None:
        """Take back what is shown and print lines; who looks no more does not stop the demo."""
        clear = f"\x1b[{len(shown)}A\r\x1b[J" if shown else ""
        try:
            print(clear + "\n".join(lines), flush=True)
        except OSError:  # the terminal is closed, or the pipe's reader has gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Demo:
    """The venue of the demo while it runs: its processes, its markets, its screen."""

    def __init__(self, arguments: argparse.Namespace, var: Var, uri: str, key: str) -> None:
        self._var = var
        self._key = key
        self._is_once = arguments.once
        self._host, self._port = arguments.host, arguments.port
        self._screen = Screen()
        self._supervisor = Supervisor(var, on_start=self._on_start, on_end=self._on_end)
        self._venue = Venue(
            var,
            uri=uri,
            web_host=self._host,
            web_port=self._port,
            supervisor=self._supervisor,
            say=self._screen.say,
        )
        self._has_started: set[str] = set()
        self._markets: dict[tuple[object, ...], Market] = {}
        self._robot_owners = ""
        self._is_web_announced = False

    def run(self, owners: dict[str, int]) -> None:
        """Run until a signal comes, or with `--once` until every ticker has traded."""
        self._robot_owners = ",".join(str(owners[name]) for name in ROBOTS_TRADE_FOR)
        signals = stop_signals(self._supervisor)
        try:
            asyncio.run(self._serve(signals))
        finally:
            self._screen.leave([*self._table(), "stopping …"])
            self._venue.stop()
        self._screen.say("stopped")

    async def _serve(self, signals: Signals) -> None:
        started = time.monotonic()
        try:
            while not signals.is_stop_asked:
                self._venue.step()
                await self._follow_products()
                self._start_robots()
                self._announce_web()
                self._screen.show(self._table)
                if self._is_once and self._has_done(time.monotonic() - started):
                    return
                await asyncio.sleep(STEP_SECONDS)
        finally:
            await asyncio.gather(*(market.leave() for market in self._markets.values()))

    async def _follow_products(self) -> None:
        """A market for each product as it is now; also for those that a manager registers later.

        None while a new run is being begun: then each begins anew, its house and robots with it.
        """
        active = {_basis(product): product for product in self._venue.products if product.active}
        if self._venue.is_renewing:
            active = {}
        gone = [self._markets.pop(known) for known in list(self._markets) if known not in active]
        await asyncio.gather(*(market.leave() for market in gone))
        for basis, product in active.items():
            if basis not in self._markets:
                self._markets[basis] = Market(product, self._key)
        for market in self._markets.values():
            if market.watching.done():
                market.watching.result()

    def _has_done(self, seconds: float) -> bool:
        """Whether `--once` has reached its end; Fatal (69) when that takes too long."""
        quiet = [market.product.name for market in self._markets.values() if not market.has_traded]
        if quiet and seconds > ONCE_SECONDS:
            names = ", ".join(quiet)
            raise Fatal(ExitCode.UNAVAILABLE, f"not traded within {ONCE_SECONDS:.0f} s: {names}")
        if not quiet:
            self._screen.say(
                *self._table(), f"every ticker has traded, {seconds:.1f} s after the start"
            )
        return not quiet

    def _start_robots(self) -> None:
        """Robots begin when the house's orders are there for them to trade with."""
        self._venue.robots = [
            self._robot(market.product, number)
            for market in self._markets.values()
            if market.house.is_ready
            for number in range(1, ROBOTS_PER_TICKER + 1)
        ]

    def _robot(self, product: Product, number: int) -> Program:
        arguments = ["-p", str(product.port), "-t", product.name, "-n", str(number)]
        arguments += ["-o", self._robot_owners, "-w", str(ROBOT_WAIT_SECONDS)]
        arguments += ["--clear", str(ROBOT_CLEAR_TURNS)]
        arguments += ["--var", str(self._var.root)]
        name = f"robot-{product.name}-{number}"
        return Program(name, Role.ROBOT, "robot.robot_trader", tuple(arguments))

    def _announce_web(self) -> None:
        if self._is_web_announced or self._supervisor.state("web") is not State.UP:
            return
        self._is_web_announced = True
        here, *network = browser_urls(self._host, self._port)
        self._screen.say(
            "",
            f"  EMTE is at {here}",
            *(f"  and, for phones in its network, at {url}" for url in network),
            "  log in as trader1  (password trader1)   to trade: that account is left to you",
            "            manager1 (password manager1)  to register products",
            "            trader2 … trader9 (password = username): the robots trade for them",
            "  Ctrl-C stops everything",
            "",
        )

    def _table(self) -> Iterator[str]:
        yield f"{'ticker':16} {'last':>10} {'trades':>8} {'seq':>9}  engine    log2db    robots"
        for market in self._markets.values():
            ticker = market.product.name
            engine = self._supervisor.state(f"match-{ticker}")
            robots = [
                self._supervisor.state(f"robot-{ticker}-{number}") is State.UP
                for number in range(1, ROBOTS_PER_TICKER + 1)
            ]
            yield (
                f"{ticker:16} {market.last or '-':>10} {market.trades:>8} {market.seq:>9}  "
                f"{engine.value:9} {self._log2db_state(ticker):9} {sum(robots)}/{len(robots)}"
            )

    def _log2db_state(self, ticker: str) -> str:
        state = self._supervisor.state(f"log2db-{ticker}")
        behind = unsettled(self._var, ticker)
        return f"{behind} behind" if state is State.UP and behind > 100 else state.value

    def _on_start(self, program: Program) -> None:
        if program.name in self._has_started:
            self._screen.say(f"{program.name} is started again")
            return
        self._has_started.add(program.name)
        ticker = program.name.split("-")[1:2]
        ports = {product.name: product.port for product in self._venue.products}
        match program.role:
            case Role.MATCHING_SERVER:
                self._screen.say(
                    f"Running matchingserver for {ticker[0]} at port {ports[ticker[0]]}"
                )
            case Role.LOG2DB:
                self._screen.say(f"Running logging utilities for  {ticker[0]}")
            case Role.ROBOT:
                self._screen.say(f"Running robot trader {program.name.rpartition('-')[2]}")
            case Role.WEB:
                self._screen.say(f"Running the web app at port {self._port}")

    def _on_end(self, program: Program, what: str) -> None:
        self._screen.say(f"{program.name} {what}")


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _tickers(text: str) -> int:
    if text.isdecimal() and 1 <= int(text) <= 100:
        return int(text)
    raise argparse.ArgumentTypeError("a number of tickers is from 1 to 100")


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="demo",
        description="Run an exchange with random products, and robots that trade them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tickers", type=_tickers, default=10, help="how many products (10)")
    parser.add_argument("--port", type=int, default=8000, help="the web app's port (8000)")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="the web app's address (127.0.0.1; 0.0.0.0: phones in the network reach it too)",
    )
    parser.add_argument(
        "--seed", type=int, help="the seed of the dice (default: another each time)"
    )
    parser.add_argument("--once", action="store_true", help="stop when every ticker has traded")
    parser.add_argument("--var", help="the folder of everything that is written (var/)")
    return parser.parse_args()


def main() -> None:
    sys.exit(exits.run("demo", _main))


def _main() -> None:
    arguments = _parse_arguments()
    exits.interrupt_on_stop()
    var = config.find_var(arguments.var)
    var.make()
    uri = settings.database_uri(var)
    with sole_supervisor(var), pidfile(var.run_dir, "demo"):
        require_free_port(arguments.host, arguments.port)
        migrate(uri, var)
        key = config.choose_key(None, var)
        try:
            seed = Seed(var, uri, random.Random(arguments.seed))
            owners = seed.users()
            seed.products(count=arguments.tickers, manager=owners[MANAGER])
        except database.DatabaseAway as away:
            raise Fatal(ExitCode.UNAVAILABLE, f"the database is away: {away}") from away
        Demo(arguments, var, uri, key).run(owners)


if __name__ == "__main__":
    main()
