"""Loading a user's strategy from a file, and saying where one has failed.

`-s random` and `-s maker` are EMTE's own; `-s FILE:CLASS` is a class in a Python file that takes
after `robot.strategy.Strategy`. Whatever is wrong with it is one line that names file and line.

>>> type(load("maker")).__name__
'MarketMaker'
"""

import importlib.machinery
import importlib.util
import inspect
import sys
import traceback
from pathlib import Path
from types import ModuleType

from matching.exits import ExitCode, Fatal
from robot.strategy import MarketMaker, Strategy

BUILT_IN = {"maker": MarketMaker}

_METHODS = {name for name in vars(Strategy) if name.startswith("on_")}


def load(spec: str) -> Strategy:
    """The strategy of `-s`; Fatal (1) if it cannot be had."""
    if spec in BUILT_IN:
        return BUILT_IN[spec]()
    file, _, name = spec.rpartition(":")
    path = Path(file)
    module = _load_module(path)
    found = getattr(module, name, None)
    if not isinstance(found, type):
        raise _failure(f"{path}: there is no class {name} in it")
    _check(path, found)
    try:
        strategy = found()
    except Exception as error:
        raise _failure(blame(error, found)) from error
    assert isinstance(strategy, Strategy), "its class was checked"
    return strategy


def blame(error: BaseException, strategy: type | None = None, *, path: Path | None = None) -> str:
    """`FILE:LINE: ValueError: why`: the last line of the strategy's file that led to the error."""
    own_file = str(path) if path is not None else inspect.getfile(strategy or Strategy)
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == own_file]
    frame = (own or frames)[-1]
    what = traceback.format_exception_only(error)[-1].strip().splitlines()[0]
    return f"{frame.filename}:{frame.lineno}: {what}"


def _load_module(path: Path) -> ModuleType:
    if not path.is_file():
        raise _failure(f"{path}: there is no such file")
    name = path.stem
    if name in sys.modules:
        name = f"strategy of {path}"  # a file may be called as a module that is there already
    loader = importlib.machinery.SourceFileLoader(name, str(path))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None, "a loader of source files has a spec for each"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.append(str(path.parent.absolute()))  # last: its neighbours hide no other module
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise _failure(blame(error, path=path)) from error
    return module


def _check(path: Path, found: type) -> None:
    """Fatal if the robot could not call a class as a strategy."""
    where = f"{path}:{_line(found)}"
    if not issubclass(found, Strategy):
        raise _failure(f"{where}: {found.__name__} does not take after robot.strategy.Strategy")
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise _failure(f"{where}: {found.__name__} has to be made without arguments") from error
    names = {name for name in dir(found) if name.startswith("on_")}
    if unknown := sorted(names - _METHODS):
        known = ", ".join(sorted(_METHODS))
        raise _failure(f"{where}: no robot calls {unknown[0]}; it calls {known}")
    for name in sorted(_METHODS):
        method, original = getattr(found, name), getattr(Strategy, name)
        if method is original:
            continue
        wanted = list(inspect.signature(original).parameters)
        try:
            inspect.signature(method).bind(*wanted)
        except TypeError as error:
            shown = ", ".join(wanted)
            where = f"{path}:{_line(method)}"
            raise _failure(f"{where}: {name} has to take ({shown})") from error
        if inspect.iscoroutinefunction(method):
            raise _failure(f"{path}:{_line(method)}: {name} is async; it has to be a plain def")


def _line(thing: object) -> int:
    """The line where a class or a function begins."""
    try:
        return inspect.getsourcelines(thing)[1]  # type: ignore[arg-type]
    except (OSError, TypeError):
        return 1


def _failure(message: str) -> Fatal:
    return Fatal(ExitCode.BUG, message)
