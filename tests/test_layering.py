"""The house's rooms: which module may import which (docs/ARCHITECTURE.md), and what stays outside.

A module without a row in the table fails: a new file has to say where it stands.
"""

import ast
import importlib.metadata
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("matching", "robot", "log2db", "app", "scripts")

CORE = (
    "order events account auction book clientids limits settings stops protocol signing"
    " engine records journal state savedstate snapshot recovery session exchange marketdata deadman"
    " fanout client ports disk config console exits pidfile groupcommit server realtime"
    " httphandlers matchingserver alarms clockwatch rejectedfile snapshotchild snapshotter"
    " recent refusals admission httpserver starting"
)
ALL_OF_MATCHING = tuple(f"matching.{name}" for name in CORE.split())


def _matching(names: str) -> tuple[str, ...]:
    return tuple(f"matching.{name}" for name in names.split())


# A module may import what its row names, and the modules inside a package that it names.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "matching.order": (),
    "matching.ports": (),
    "matching.console": (),
    "matching.exits": (),
    "matching.pidfile": _matching("exits"),
    "matching.config": _matching("exits"),
    "matching.disk": _matching("ports"),
    "matching.events": _matching("order"),
    "matching.auction": (),
    "matching.settings": _matching("order"),
    "matching.limits": _matching("order"),
    "matching.refusals": _matching("order events"),
    "matching.admission": _matching("order events account book limits refusals settings"),
    "matching.recent": (),
    "matching.account": _matching(
        "order limits recent book"
    ),  # book: for the types of its places only
    "matching.book": _matching("order account"),
    "matching.stops": _matching("order account"),
    "matching.clientids": _matching("order account"),
    "matching.protocol": _matching("order events"),
    "matching.signing": _matching("order events protocol"),
    "matching.scenario": _matching("events protocol"),
    "matching.conformance": _matching("order events protocol engine exits scenario"),
    "matching.engine": _matching(
        "order events account admission auction book clientids limits recent refusals settings"
        " stops"
    ),
    "matching.records": _matching("order events protocol"),
    "matching.journal": _matching("order events exits records ports"),
    "matching.marketdata": _matching("order events"),
    "matching.state": _matching("order events account book clientids stops engine records"),
    "matching.savedstate": _matching("order events account clientids engine records journal state"),
    "matching.snapshot": _matching("order journal ports state savedstate"),
    "matching.recovery": _matching(
        "order events exits ports records journal engine state snapshot"
    ),
    "matching.snapshotchild": _matching("disk engine exits journal recovery"),
    "matching.snapshotter": _matching("console"),
    "matching.session": _matching("order protocol signing ports"),
    "matching.exchange": _matching(
        "order events protocol signing ports account engine journal limits recovery session"
        " state marketdata"
    ),
    "matching.client": _matching("order protocol signing config exits"),
    "matching.deadman": (),
    "matching.alarms": (),
    "matching.httpserver": _matching("exits"),
    "matching.clockwatch": (),
    "matching.rejectedfile": _matching("exchange journal records"),
    "matching.fanout": _matching("marketdata"),
    "matching.groupcommit": _matching("exchange ports"),
    "matching.server": _matching(
        "order exchange recovery ports config deadman exits fanout groupcommit httpserver"
        " alarms clockwatch rejectedfile snapshotter"
    ),
    "matching.realtime": _matching("console events protocol exchange marketdata fanout server"),
    "matching.httphandlers": _matching("order exchange marketdata realtime server"),
    "matching.starting": _matching("httphandlers httpserver server"),
    "matching.matchingserver": ALL_OF_MATCHING,
    "robot.strategy": _matching("order"),
    "robot.own_orders": ("robot.strategy", *_matching("order")),
    "robot.loading": ("robot.strategy", *_matching("exits")),
    "robot.trading_session": (
        *("robot.strategy", "robot.own_orders", "robot.loading"),
        *_matching("order protocol client marketdata console exits"),
    ),
    "robot.robot_trader": (
        *("robot.strategy", "robot.loading", "robot.trading_session"),
        *_matching("order client config console exits pidfile"),
    ),
    "log2db": (
        "log2db",
        "app.models",
        *_matching("order events ports disk records journal recovery config exits pidfile"),
    ),
    "app.models": ("app.models", *_matching("order settings limits config exits pidfile")),
    "app.controllers": (
        "app.controllers",
        "app.models",
        *_matching("order settings limits protocol signing client marketdata fanout"),
        *_matching("config exits pidfile"),
    ),
    "app.routes": ("app",),
    "app.webserver": ("app", *_matching("alarms config disk exits httpserver pidfile ports")),
    "scripts": (*ROOMS,),
}

# Who may use the libraries that belong to one room.
LIBRARY_ROOMS = {
    "tornado": (
        "matching.matchingserver",
        "matching.server",
        "matching.httpserver",
        "matching.realtime",
        "matching.httphandlers",
        "matching.starting",
        "matching.client",
        "matching.fanout",
        "app.controllers",
        "app.routes",
        "app.webserver",
    ),
    "pydal": ("app.models", "log2db"),
    "jinja2": ("app.controllers",),
    "passlib": ("app.models",),
}

# The core is handed its time, dice, disk and threads, so that a simulation can hand it bad ones.
PURE = _matching("order events account auction book clientids limits settings stops engine")
PURE += _matching("protocol signing records journal state savedstate snapshot recovery session")
PURE += _matching("exchange marketdata")
IMPURE_MODULES = {"time", "datetime", "random", "secrets", "os", "logging", "threading"}
IMPURE_MODULES |= {"asyncio", "socket", "subprocess", "concurrent"}
TIME_TEXT_ONLY = {"matching.marketdata": {"datetime"}, "matching.exchange": {"datetime"}}


def _modules() -> Iterator[tuple[str, Path]]:
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(_modules())


def _imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, anywhere in it, by its absolute name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; only absolute ones are used"
            assert node.module is not None
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else node.module


def _within(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


def _row(module: str) -> tuple[str, ...] | None:
    while module:
        if module in MAY_IMPORT:
            return MAY_IMPORT[module]
        module = module.rpartition(".")[0]
    return None


def _is_empty_package(path: Path) -> bool:
    return path.name == "__init__.py" and not list(_imports(path))


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_row_allows(module: str) -> None:
    path = MODULES[module]
    row = _row(module)
    if row is None and _is_empty_package(path):
        return
    assert row is not None, f"{module} has no row in the layering table"
    ours = [name for name in _imports(path) if name.split(".")[0] in ROOMS and name != module]
    forbidden = [name for name in ours if not _within(name, row)]
    assert not forbidden, f"{module} may not import {forbidden}"


@pytest.mark.parametrize("module", MODULES)
def test_a_library_stays_in_its_room(module: str) -> None:
    used = {name.split(".")[0] for name in _imports(MODULES[module])}
    for library, rooms in LIBRARY_ROOMS.items():
        assert library not in used or _within(module, rooms), f"{module} may not use {library}"


@pytest.mark.parametrize("module", [name for name in PURE if name in MODULES])
def test_the_core_reaches_for_no_clock_dice_file_or_thread(module: str) -> None:
    used = {name.split(".")[0] for name in _imports(MODULES[module])}
    impure = (used & IMPURE_MODULES) - TIME_TEXT_ONLY.get(module, set())
    assert not impure, f"{module} reaches for {sorted(impure)}"


@pytest.mark.parametrize("module", MODULES)
def test_no_wait_loses_a_cancel(module: str) -> None:
    """Before Python 3.12 `wait_for` forgets a cancel that comes as what it waits for ends.

    The task then runs on, and who waits for its end waits for ever: `asyncio.timeout` does not.
    """
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not called & {"asyncio.wait_for", "wait_for"}


def test_the_table_names_only_modules_that_exist() -> None:
    named = {name for name in MAY_IMPORT if name not in MODULES}
    assert not {name for name in named if not (ROOT / name.replace(".", "/")).is_dir()}


def _dependency_modules() -> set[str]:
    """Top-level modules of the distributions that EMTE requires, extras included."""
    required = {
        re.split(r"[^A-Za-z0-9_.-]", requirement)[0].lower().replace("_", "-")
        for requirement in importlib.metadata.requires("emte") or ()
    }
    return {
        module
        for module, distributions in importlib.metadata.packages_distributions().items()
        if required & {name.lower().replace("_", "-") for name in distributions}
    }


@pytest.mark.parametrize("folder", [*ROOMS, "benchmarks"])
def test_no_file_shadows_a_module_of_the_standard_library_or_a_dependency(folder: str) -> None:
    """A script's folder is first on sys.path: its files would be imported instead."""
    taken = set(sys.stdlib_module_names) | _dependency_modules() | {folder}
    assert "tornado" in taken
    names = {path.stem for path in (ROOT / folder).glob("*.py")}
    assert not names & taken


@pytest.mark.parametrize("module", MODULES)
def test_no_safety_hangs_on_an_assert(module: str) -> None:
    """`python -O` leaves them out: an assert tells what a type is, or is one of a `check`'s."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    of_checks = {
        id(node)
        for check in ast.walk(tree)
        if isinstance(check, ast.FunctionDef) and check.name == "check"
        for node in ast.walk(check)
    }
    asserts = [node for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    told = [ast.unparse(node.test) for node in asserts if id(node) not in of_checks]
    of_types = re.compile(r"(not )?isinstance\(.*\)|.* is not None")
    assert not [test for test in told if of_types.fullmatch(test) is None]
