"""A new run: the present one is ended, its journals are put away, and everybody begins anew.

It is the zap of 2010, which deleted all orders and matches; here they stay, as a run of the past.

1. Markets are closed, so that their journals say how the day orders ended.
2. Robots and matching servers stop. log2db brings the rest of every journal into the database.
3. One transaction ends the run (app/models/runs.py).
4. The files of its journals move to `var/runs/<number>/`, and the servers start on new ones.

What cannot be done is said before the third step, and all goes on as it was. Who is killed before
it has changed nothing; who is killed after it has ended the run, and whoever supervises the venue
next moves what was not moved yet, before any server starts (`put_away`): a journal whose lineage is
closed by a run belongs to that run.

Steps are generators, so that a supervisor can look after its children meanwhile: each `yield` is a
moment to do so.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import msgspec

from app.models import db as database
from app.models import products, runrequest, runs
from app.models.db import DAL, DatabaseAway
from app.models.products import Product
from app.models.runrequest import Progress, Request, Step
from app.models.runs import Run
from log2db.__main__ import read_durable, settle_rest
from log2db.settlement import Fenced, ForeignJournal
from matching.client import PASSING, Away, Refused, Unanswered, post_order, query
from matching.config import Var
from matching.disk import SystemDisk, SystemLock, sync_folder
from matching.exits import ExitCode, Fatal
from matching.journal import (
    HEADER_LIMIT,
    JournalDamaged,
    UnknownJournal,
    read_header,
    settled_path,
)
from matching.order import Phase, SetPhase
from matching.ports import Locked
from scripts.supervisor import Role

LOOPBACK = ("127.0.0.1", "localhost", "::1")

SETTLE_SECONDS = 10.0
"""How long the running log2db may take before we read on in their place."""

LOCK_SECONDS = 0.2
"""How long to wait for a lock: a process that was killed may hold it a moment longer."""

START_SECONDS = 20.0
"""How long the new servers may take before the run counts as begun without them."""

AGAIN_SECONDS = 1.0
"""How long after a market did not answer it is asked again to reopen."""

log = logging.getLogger("newrun")


T = TypeVar("T")


class NotDone(Fatal):
    """The new run cannot be begun, and nothing was changed."""


class Processes(Protocol):
    """What a new run asks of the venue that it is begun in."""

    @property
    def products(self) -> Sequence[Product]:
        """The products that are served here."""

    def pause(self, *roles: Role) -> None:
        """Programs of these roles, and of no others, are not wanted from now on."""

    def runs(self, role: Role) -> bool:
        """Whether a process of this role is there, wanted or on its way out."""

    def are_up(self) -> bool:
        """Whether every matching server that is wanted is up."""

    def behind(self) -> str:
        """The products whose running log2db has not settled all of their journals."""

    def forget_programs(self) -> None:
        """Journals begin anew: so do the arguments of those who write them."""


def carry_out(
    request: Request,
    venue: Processes,
    var: Var,
    db: DAL,
    *,
    key: str,
    say: Callable[[str], None],
) -> Generator[None, None, None]:
    """Begin a new run because a manager asks for it; how it goes is reported for the page.

    Closed before its end (GeneratorExit) it has changed nothing, or the run has ended.
    """
    course = _Course(request, var, say)
    say(f"{request.name} asks for a new run")
    try:
        try:
            course.run = _ask(db, lambda: runs.present(db)).number
            course.report(Step.CLOSING)
            if course.run != request.run:
                raise NotDone(ExitCode.UNAVAILABLE, f"run {request.run} has ended already")
            require_here(db)
            course.phases = yield from _open_phases(venue.products)
            course.report(Step.CLOSING)
            yield from _set_phases(venue, dict.fromkeys(course.phases, Phase.CLOSED), key)
            course.report(Step.SETTLING)
            yield from _stop(venue)
            yield from end_run(var, db, by=request.by, on_ended=course.ended)
        except NotDone as not_done:
            course.give_up(not_done.message)
            venue.pause()
            yield from _reopen(venue, course.phases, key)
            course.phases = {}
        else:
            course.tell(Step.STARTING)
            venue.forget_programs()
            venue.pause()
            yield from _wait(venue.are_up, START_SECONDS)
    except GeneratorExit:  # the venue stops
        course.finish()
        raise
    course.finish()


def reopen_left(venue: Processes, var: Var, db: DAL, *, key: str) -> Generator[None, None, None]:
    """Give markets their phases back that were closed for a new run which did not begin."""
    left = runrequest.progress(var)
    if left is None or not left.phases:
        return
    if _ask(db, lambda: runs.present(db)).number == left.run:
        phases = {name: Phase(text) for name, text in left.phases.items()}
        try:
            yield from _reopen(venue, phases, key)
        except GeneratorExit:  # the venue stops: the next start goes on
            runrequest.report(var, msgspec.structs.replace(left, phases=_texts(phases)))
            raise
        runrequest.report(var, msgspec.structs.replace(left, phases={}))


class _Course:
    """How one request goes, told to its page and to whoever watches the venue."""

    def __init__(self, request: Request, var: Var, say: Callable[[str], None]) -> None:
        self.run = 0
        self.phases: dict[str, Phase] = {}
        self._request = request
        self._var = var
        self._say = say
        self._reason = ""
        self._has_ended = False

    def report(self, step: Step) -> None:
        """Say it before it is done; NotDone if that cannot be.

        Else nobody would reopen the markets that were closed by a supervisor killed since.
        """
        try:
            runrequest.report(self._var, self._progress(step))
        except OSError as error:
            message = f"cannot write to {self._var.run_dir}: {error.strerror}"
            raise NotDone(ExitCode.DISK, message) from error

    def tell(self, step: Step) -> None:
        """Say it if possible: it is so, whether the page learns of it or not."""
        try:
            self.report(step)
        except NotDone as not_done:
            log.warning("%s", not_done.message)

    def ended(self, run: Run) -> None:
        """The transaction is made: from here on there is no way back."""
        self._has_ended = True
        self.phases = {}
        folder = self._var.run_folder(run.number)
        self._say(f"run {run.number} has ended; its journals go to {folder}")
        self.tell(Step.MOVING)

    def give_up(self, reason: str) -> None:
        self._reason = reason
        self._say(f"no new run: {reason}")
        self.tell(Step.REOPENING)

    def finish(self) -> None:
        if self._has_ended:
            self._say(f"run {self.run + 1} has begun")
        elif not self._reason:
            self._reason = "the venue was stopped meanwhile"
            self._say(f"no new run: {self._reason}")
        self.tell(Step.BEGUN if self._has_ended else Step.FAILED)
        runrequest.forget(self._var)

    def _progress(self, step: Step) -> Progress:
        phases = _texts(self.phases)
        return Progress(self._request, step, self.run, database.now(), self._reason, phases)


def _texts(phases: Mapping[str, Phase]) -> dict[str, str]:
    return {ticker: str(phase) for ticker, phase in phases.items()}


def judge_left_request(var: Var, db: DAL, say: Callable[[str], None]) -> None:
    """Say what became of a request that a killed supervisor left: it is not carried out later."""
    request = runrequest.pending(var)
    if request is None:
        runrequest.forget(var)  # should there be a file that holds none
        return
    left = runrequest.progress(var)
    assert left is not None
    present = _ask(db, lambda: runs.present(db)).number
    if 0 < left.run < present:
        done = Progress(request, Step.BEGUN, left.run, database.now())
    else:
        reason = "the venue was stopped meanwhile"
        say(f"the new run that {request.name} asked for is dropped: {reason}")
        done = Progress(request, Step.FAILED, present, database.now(), reason, left.phases)
    runrequest.finish(var, done)


def require_here(db: DAL) -> None:
    """NotDone if a product is served elsewhere: its journal could be put away only there."""
    for product in _ask(db, lambda: products.served(db)):
        if product.host not in LOOPBACK:
            raise NotDone(
                ExitCode.UNAVAILABLE,
                f"{product.name} is served at {product.host}, not on this machine: switch it off"
                " first, or serve it here",
            )


def end_run(
    var: Var, db: DAL, *, by: int, on_ended: Callable[[Run], None]
) -> Generator[None, None, None]:
    """End the present run, with no server at work; NotDone, and nothing changed, if it cannot be.

    Until its journals are where those of past runs are, nothing can begin to work on them.
    """
    require_here(db)
    journals = sorted(path.stem for path in var.journal_dir.glob("*.log"))
    served = [product.name for product in _ask(db, lambda: products.served(db))]
    with _undisturbed(var, {*journals, *served}):
        for ticker in journals:
            yield from _settle(ticker, var, db)
        followed = [journal.ticker for journal in _ask(db, lambda: runs.followed(db))]
        for ticker in followed:
            if ticker not in journals:
                raise NotDone(
                    ExitCode.DISK,
                    f"the database has followed a journal of {ticker}, which is not in"
                    f" {var.journal_dir}: is this its var/?",
                )
        number = _ask(db, lambda: runs.present(db)).number
        _make_ready(var, number)
        on_ended((yield from _transact(db, number, by=by)))
        _move(var, dict.fromkeys(followed, number))


def put_away(var: Var, db: DAL) -> list[str]:
    """Finish what was begun: move the journals of ended runs; their tickers.

    To be called before anything can open a journal. NotDone (69) if something that was started by
    hand works on one of them; Fatal (75) if they cannot be moved.
    """
    left: dict[str, int] = {}
    for path in sorted(var.journal_dir.glob("*.log")):
        with suppress(JournalDamaged, UnknownJournal), closing(SystemDisk().open(path)) as file:
            header = read_header(file)
            run = _ask(db, partial(runs.run_of, db, path.stem, header.lineage))
            if run is not None:
                left[path.stem] = run
    with _undisturbed(var, left):
        for run in set(left.values()):
            _make_folder(var, run)
        _move(var, left)
    return list(left)


def _settle(ticker: str, var: Var, db: DAL) -> Iterator[None]:
    """Bring the database to the end of a journal; NotDone if it cannot be brought there."""
    path = var.journal_file(ticker)
    try:
        if read_durable(path) is None:
            if path.stat().st_size <= HEADER_LIMIT and not settled_path(path).exists():
                return  # made a moment ago: nothing is in it yet
            raise JournalDamaged(0, "it has no durable mark; its matching server makes one")
        yield from settle_rest(ticker, path, db)
    except (JournalDamaged, ForeignJournal) as error:
        raise NotDone(ExitCode.DISK, f"{path}: {error}") from error
    except UnknownJournal as error:
        raise NotDone(ExitCode.CONFIGURATION, f"{path}: {error}") from error
    except Fenced as error:
        raise NotDone(ExitCode.UNAVAILABLE, f"another log2db follows {ticker}: {error}") from error
    except OSError as error:
        raise NotDone(ExitCode.DISK, f"{path}: {error.strerror}") from error
    except DatabaseAway as away:
        raise _is_away(away) from away


def _make_ready(var: Var, number: int) -> None:
    """Make the folder of a run, and prove that files can be moved there: after the transaction it
    would be too late to find out.
    """
    folder = _make_folder(var, number)
    probe = var.journal_dir / f".run-{number}"
    try:
        if any(path.name != probe.name for path in folder.iterdir()):
            raise NotDone(
                ExitCode.DISK,
                f"{folder} is not empty, but the database knows of no run {number} that has"
                " ended: move it away",
            )
        probe.touch(mode=0o600)
        probe.rename(folder / probe.name).unlink()
    except OSError as error:
        raise NotDone(ExitCode.DISK, f"cannot move files to {folder}: {error.strerror}") from error
    finally:
        probe.unlink(missing_ok=True)


def _make_folder(var: Var, number: int) -> Path:
    folder = var.run_folder(number)
    try:
        for made in (folder.parent, folder):
            made.mkdir(mode=0o700, exist_ok=True)
            sync_folder(made.parent)
    except OSError as error:
        raise NotDone(ExitCode.DISK, f"cannot make {folder}: {error.strerror}") from error
    return folder


def _transact(db: DAL, number: int, *, by: int) -> Generator[None, None, Run]:
    """End the run in the database. If that goes away meanwhile, wait to hear which it was."""
    try:
        work = partial(runs.end_run, db, by=by, at=database.now())
        return database.in_transaction(db, work, write=True)
    except DatabaseAway as away:
        while True:
            with suppress(DatabaseAway), database.transaction(db, write=True):
                database.lock_table(db, "run")  # ours, if it is being committed at this moment
                if runs.present(db).number > number:
                    return Run(number, 0)
                raise _is_away(away) from away
            yield


def _move(var: Var, runs_of: Mapping[str, int]) -> None:
    """Move all files of the tickers to the folders of the runs that they belong to.

    The journal goes last: by it `put_away` finds what is left, and without it no server would take
    marks that stayed behind.
    """
    folders = {var.journal_dir, *(var.run_folder(run) for run in runs_of.values())}
    try:
        for is_journal in (False, True):
            for ticker, run in runs_of.items():
                for path in sorted(var.journal_dir.glob(f"{ticker}.*")):
                    if (path.suffix == ".log") is is_journal:
                        _move_file(path, var.run_folder(run) / path.name)
            for folder in folders:
                sync_folder(folder)
    except OSError as error:
        raise Fatal(
            ExitCode.DISK,
            f"{error.filename}: {error.strerror}; the run has ended, and what is left of it in"
            f" {var.journal_dir} is moved at the next start",
        ) from error


def _move_file(path: Path, place: Path) -> None:
    if place.exists():
        raise FileExistsError(0, "there is a file of this name already", str(place))
    path.rename(place)


@contextmanager
def _undisturbed(var: Var, tickers: Iterable[str]) -> Iterator[None]:
    """Hold all that a server or a log2db of these tickers would need; see `_lock`."""
    with ExitStack() as held:
        for ticker in sorted(tickers):
            held.enter_context(_lock(var.lock_file(ticker), "matching server serves", ticker))
            follower, journal = var.run_dir / f"log2db-{ticker}.lock", var.journal_file(ticker)
            held.enter_context(_lock(follower, "log2db follows", ticker))
            if journal.exists():  # no server of this var/ can make it any more
                held.enter_context(_lock(journal, "matching server writes", ticker))
        yield


@contextmanager
def _lock(path: Path, what: str, ticker: str) -> Iterator[None]:
    """Hold one of these locks; NotDone if something that is not ours has it."""
    end = time.monotonic() + LOCK_SECONDS
    try:
        while (lock := _take(path)) is None:
            if time.monotonic() > end:
                message = f"a {what} {ticker} that was started by hand: stop it first"
                raise NotDone(ExitCode.UNAVAILABLE, message)
            time.sleep(0.01)
    except OSError as error:
        raise NotDone(ExitCode.CONFIGURATION, f"cannot lock {path}: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()


def _take(path: Path) -> SystemLock | None:
    try:
        return SystemDisk().lock(path)
    except Locked:
        return None


def _ask(db: DAL, question: Callable[[], T]) -> T:
    """What the database answers; NotDone if it does not."""
    try:
        with database.transaction(db):
            return question()
    except DatabaseAway as away:
        raise _is_away(away) from away


def _is_away(away: DatabaseAway) -> NotDone:
    return NotDone(ExitCode.UNAVAILABLE, f"the database is away: {away}")


# -- the venue's processes and markets


def _stop(venue: Processes) -> Iterator[None]:
    """Stop robots, then matching servers, then log2db once it has settled what they wrote."""
    venue.pause(Role.ROBOT)
    yield from _while(lambda: venue.runs(Role.ROBOT))
    venue.pause(Role.ROBOT, Role.MATCHING_SERVER)
    yield from _while(lambda: venue.runs(Role.MATCHING_SERVER))
    yield from _wait(lambda: not venue.behind(), SETTLE_SECONDS)
    venue.pause(Role.ROBOT, Role.MATCHING_SERVER, Role.LOG2DB)
    yield from _while(lambda: venue.runs(Role.LOG2DB))


def _while(condition: Callable[[], bool]) -> Iterator[None]:
    while condition():
        yield


def _wait(condition: Callable[[], bool], seconds: float) -> Iterator[None]:
    """Until the condition holds, but not for ever."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        yield


def _open_phases(served: Sequence[Product]) -> Generator[None, None, dict[str, Phase]]:
    """The phases of the markets that are not closed, by ticker.

    One that does not answer takes no orders: it is no reason to wait.
    """

    async def ask(product: Product) -> Phase:
        try:
            state = await query(urlsplit(product.post_url)._replace(path="/query").geturl())
            return Phase(state.get("phase", ""))
        except (Away, ValueError) as error:  # a program of somebody else may sit at the port
            log.warning("%s is not closed: %s", product.name, error)
            return Phase.CLOSED

    async def ask_all() -> list[Phase]:
        return await asyncio.gather(*map(ask, served))

    phases = yield from _meanwhile(ask_all())
    names = (product.name for product in served)
    return {
        name: phase for name, phase in zip(names, phases, strict=True) if phase is not Phase.CLOSED
    }


def _reopen(venue: Processes, phases: dict[str, Phase], key: str) -> Iterator[None]:
    """Give markets back the phases that they had, once their servers are up again.

    Those that do not answer are asked again for a while, and no longer: an operator may have closed
    them since. Of `phases` those are taken out of which it is known what became of them.
    """
    end = time.monotonic() + START_SECONDS
    yield from _wait(venue.are_up, START_SECONDS)
    yield from _set_phases(venue, phases, key)
    while any(product.name in phases for product in venue.products) and time.monotonic() < end:
        yield from _wait(lambda: False, AGAIN_SECONDS)
        yield from _set_phases(venue, phases, key)


def _set_phases(venue: Processes, phases: dict[str, Phase], key: str) -> Iterator[None]:
    """Tell each market its phase, and take out those of which it is known what became of them.

    One that does not take it is named in the log.
    """

    async def tell(product: Product, phase: Phase) -> None:
        try:
            await post_order(product.post_url, SetPhase(ticker=product.name, phase=phase), key)
        except (Away, Unanswered, Refused) as error:
            code = error.code if isinstance(error, Refused) else ""
            if code != "invalid_phase":  # it is so already
                log.warning("%s is not %s: %s", product.name, phase, error)
            if not code or code in PASSING:
                return
        del phases[product.name]

    async def tell_all() -> None:
        meant = [product for product in venue.products if product.name in phases]
        await asyncio.gather(*(tell(product, phases[product.name]) for product in meant))

    yield from _meanwhile(tell_all())


def _meanwhile(work: Coroutine[Any, Any, T]) -> Generator[None, None, T]:
    """What a coroutine returns; it runs on a loop of its own, for the caller may be on one.

    Closed before its end (the venue stops) it is cancelled: who does not answer is not waited for.
    """
    wanted: Future[None] = Future()

    async def work_while_wanted() -> T:
        working = asyncio.ensure_future(work)
        no_longer = asyncio.wrap_future(wanted)
        no_longer.add_done_callback(lambda _: working.cancel())
        try:
            return await working
        finally:
            no_longer.cancel()

    with ThreadPoolExecutor(1, thread_name_prefix="newrun") as pool:
        future = pool.submit(asyncio.run, work_while_wanted())
        try:
            while not future.done():
                yield
        finally:
            wanted.cancel()
        return future.result()
