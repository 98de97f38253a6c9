"""The matching server of one product: the program, from its command line to its exit code.

    python matchingserver.py -p 8888 -t intc

At a start the ticker is locked, then the port is taken, and only then the journal is touched. While
it is recovered, whoever asks is told so (`starting.py`). What arrives from then on is decided at
once and written together with all else that came while the batch before it was being synced (group
commit, PROTOCOL §5); only then is it answered. A failed write or sync ends the process with exit
code 75, and nobody is answered.
"""

if __name__ == "__main__":  # before the other imports, so that Ctrl-C ends these in silence
    from matching.exits import end_on_interrupt

    end_on_interrupt()

import argparse
import asyncio
import gc
import ipaddress
import logging
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tornado.netutil import bind_sockets

from matching import exits
from matching.config import Var, choose_key, find_var, read_generations
from matching.console import say
from matching.disk import SystemClock, SystemDice, SystemDisk
from matching.exits import ExitCode, Fatal, code_of
from matching.groupcommit import DiskFailed
from matching.httphandlers import application
from matching.httpserver import check_files
from matching.journal import JournalDamaged, UnknownJournal
from matching.order import TICKER, Phase, parse_price
from matching.pidfile import pidfile
from matching.ports import Disk, Locked
from matching.recovery import Contradiction, Recovered, open_journal
from matching.server import Options, Server
from matching.starting import Abandoned, Starting


def main() -> None:
    """The program `matchingserver.py` and the console command `emte-match`."""
    sys.exit(exits.run("matchingserver", _body))


def _body() -> None:
    arguments = _parser().parse_args()
    logging.basicConfig(
        format="%(asctime)s %(name)s %(levelname)s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
        level=logging.INFO,
    )
    options = _options(arguments)
    var = find_var(arguments.var)
    check_files()
    with _event_loop_runner() as runner:
        runner.run(run(options, var))


def _event_loop_runner() -> asyncio.Runner:
    """An asyncio runner, on uvloop where that is installed: it carries 1.1 to 1.4 times as much."""
    try:
        import uvloop
    except ImportError:
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


async def run(options: Options, var: Var, *, disk: Disk | None = None) -> None:
    """Serve a product until SIGTERM or SIGINT. Fatal if that cannot be, with the reason."""
    disk = disk if disk is not None else SystemDisk()
    var.make()
    venue_key = choose_key(options.key, var, any_text=options.demo)
    generations = read_generations(var)
    lock = _lock(disk, var, options.ticker)
    path = options.journal_file(var)
    signals = _StopSignals()
    try:
        sockets = _bind(options)
        recovered = await _recover_meanwhile(disk, path, options, sockets, signals)
        server = Server(
            recovered,
            clock=SystemClock(),
            dice=SystemDice(),
            venue_key=venue_key,
            generations=generations,
            options=options,
            var=var,
        )
        signals.stop = server.stop
        # Only now: who looks for the file takes the server for ready.
        with pidfile(var.run_dir, f"match-{options.ticker}"):
            await _serve(server, sockets, path)
    except Abandoned:
        say(f"matchingserver {options.ticker}: ended before it served anybody")
    finally:
        lock.release()


class _StopSignals:
    """SIGTERM and SIGINT: they call `stop`, whichever it is when their turn comes.

    Never another callback: the loop may have the one before in its queue, and would call that.
    """

    def __init__(self) -> None:
        self.stop: Callable[[], None] = lambda: None
        loop = asyncio.get_running_loop()
        for stop_signal in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(stop_signal, lambda: self.stop())


async def _serve(server: Server, sockets: list[socket.socket], path: Path) -> None:
    try:
        server.begin()
        # What recovery built stays. A full collection would walk it each time: 33 ms of silence
        # for 100,000 resting orders.
        gc.collect()
        gc.freeze()
        server.serve(application(server), sockets)
        host, port = sockets[0].getsockname()[:2]
        say(
            f"matchingserver {server.exchange.ticker}: listening on {host}:{port}, journal {path},"
            f" recovered {server.recovered_records} records{_beginning(server.recovered)}"
        )
        await server.ended()
        server.commit.close()
    except DiskFailed as error:
        message = f"{path} cannot be written: {error}; what was not answered may be lost"
        raise Fatal(ExitCode.DISK, message) from error
    finally:
        server.recovered.file.close()
        server.recovered.mark_file.close()


def _beginning(recovered: Recovered) -> str:
    seq = recovered.snapshot_seq
    return f", from the snapshot of record {seq} on" if seq else ""


def _lock(disk: Disk, var: Var, ticker: str) -> Any:
    try:
        return disk.lock(var.lock_file(ticker))
    except Locked as error:
        raise Fatal(
            ExitCode.UNAVAILABLE,
            f"another matching server serves {ticker}: {var.lock_file(ticker)} is held",
        ) from error
    except OSError as error:
        message = f"cannot lock {var.lock_file(ticker)}: {error.strerror}"
        raise Fatal(code_of(error), message) from error


def _bind(options: Options) -> list[socket.socket]:
    try:
        return bind_sockets(options.port, options.host, backlog=1024)
    except OSError as error:
        raise Fatal(
            ExitCode.UNAVAILABLE,
            f"cannot listen on {options.host}:{options.port}: {error.strerror or error}",
        ) from error


async def _recover_meanwhile(
    disk: Disk,
    path: Path,
    options: Options,
    sockets: list[socket.socket],
    signals: _StopSignals,
) -> Recovered:
    """Recover in a thread, while the loop tells who asks how far it is.

    Abandoned: nobody listens any more. Fatal.
    """
    try:
        size = path.stat().st_size
    except OSError:
        size = 0  # it is made, or what is wrong with it is found as it is opened
    starting = Starting(options.ticker, size)
    signals.stop = starting.abandon
    try:
        with starting.answering(sockets):
            recovered = await asyncio.to_thread(_recover, disk, path, options, starting.reach)
        if starting.is_abandoned:
            recovered.file.close()
            recovered.mark_file.close()
            raise Abandoned
    except Abandoned:
        for each in sockets:
            each.close()
        raise
    return recovered


def _recover(disk: Disk, path: Path, options: Options, reach: Callable[[int], None]) -> Recovered:
    gc.disable()  # what recovery builds stays; walking it meanwhile takes a sixth of the time
    try:
        return open_journal(
            disk,
            path,
            ticker=options.ticker,
            dice=SystemDice(),
            tick=options.tick,
            lot=options.lot,
            reference=options.price,
            reach=reach,
        )
    except Locked as error:
        raise Fatal(
            ExitCode.UNAVAILABLE, f"another matching server writes {path}; it is left as it is"
        ) from error
    except (Contradiction, UnknownJournal) as error:
        raise Fatal(ExitCode.CONFIGURATION, f"{path}: {error}") from error
    except JournalDamaged as error:
        raise Fatal(ExitCode.DISK, f"{path}: {error}") from error
    except OSError as error:
        raise Fatal(code_of(error), f"cannot open {path}: {error.strerror or error}") from error
    finally:
        gc.enable()


_EXAMPLES = """examples:
  python matchingserver.py -p 8888 -t intc
  python matchingserver.py -p 9001 -t acme --price 50.00 --tick 0.05 --origin https://venue.example
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="matchingserver.py",
        description="The matching server of one product: orders by HTTP and WebSocket, a journal.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("-p", "--port", type=_port, default=8888, help="where to listen (8888)")
    add("-t", "--ticker", type=_ticker, default="intc", help="the product (intc)")
    add("-f", "--filename", type=Path, metavar="FILE", help="the journal (var/journal/TICKER.log)")
    add("-k", "--key", help="the venue key, or @FILE that holds it (var/venue.key)")
    add("--host", default="127.0.0.1", help="the address to listen on (127.0.0.1)")
    add("--price", type=_price, help="the reference price of a new journal (100.00)")
    add("--tick", type=_price, help="the tick size of a new journal (0.01)")
    add("--lot", type=_lot, help="the lot size of a new journal (1)")
    add("--phase", type=Phase, choices=list(Phase), help="a new journal's first phase (continuous)")
    add("--origin", action="append", default=[], help="a further origin whose pages may connect")
    add(
        "--venue-from",
        type=ipaddress.ip_network,
        action="append",
        default=[],
        metavar="CIDR",
        help="addresses from which the venue key counts, beside loopback",
    )
    add(
        "--durability",
        choices=("fsync", "write"),
        default="fsync",
        help="answer when a command is synced (fsync), or when it is written (write)",
    )
    add(
        "--snapshot-records",
        type=_count,
        default=1_000_000,
        metavar="N",
        help="take a snapshot once so many records were added since the last (1000000); 0: never",
    )
    add(
        "--snapshot-seconds",
        type=_count,
        default=60,
        metavar="N",
        help="and so much time has passed (60)",
    )
    add("--demo", action="store_true", help="let any text be a key; on loopback only")
    add(
        "--var", metavar="DIR", help="where everything is kept (var/ of the checkout, or $EMTE_VAR)"
    )
    return parser


def _options(arguments: argparse.Namespace) -> Options:
    """The checked options; Fatal for those that do not go together."""
    if arguments.demo and not _is_loopback(arguments.host):
        raise Fatal(ExitCode.CONFIGURATION, f"--demo is for loopback only, not {arguments.host}")
    return Options(
        ticker=arguments.ticker,
        port=arguments.port,
        host=arguments.host,
        journal=arguments.filename.absolute() if arguments.filename is not None else None,
        key=arguments.key,
        tick=arguments.tick,
        lot=arguments.lot,
        price=arguments.price,
        phase=arguments.phase,
        origins=tuple(origin.rstrip("/") for origin in arguments.origin),
        venue_from=tuple(arguments.venue_from),
        syncs=arguments.durability == "fsync",
        demo=arguments.demo,
        snapshot_records=arguments.snapshot_records,
        snapshot_seconds=arguments.snapshot_seconds,
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: 1 to 65535, or 0 for a free one")
    return int(text)


def _ticker(text: str) -> str:
    if TICKER.fullmatch(text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a ticker: like intc, at most 16 letters")
    return text


def _price(text: str) -> int:
    try:
        price = parse_price(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if price == 0:
        raise argparse.ArgumentTypeError("0 is no price")
    return price


def _lot(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a lot size: a whole number from 1 on")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


if __name__ == "__main__":
    main()
