"""Configuration: where a process keeps its files, and the settings it was given.

A setting is looked up in this order: the command line's flag, the environment's `EMTE_<NAME>`, the
key of that name in `emte.toml` (in the current folder), the default. Everything a process writes
lies under `var/`: of the checkout when EMTE runs from one, else of the current folder.
"""

import os
import re
import secrets
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from matching.exits import ExitCode, Fatal, code_of

KEY = re.compile(r"[0-9a-f]{64}", re.ASCII)
"""A key as text: 32 bytes in lowercase hex (PROTOCOL §2)."""

_GENERATION = re.compile(r"([0-9]{1,9})\s+([0-9]{1,12})\s*", re.ASCII)


@dataclass(frozen=True)
class Var:
    """The folder `var/` and the names of what lies in it."""

    root: Path

    @property
    def journal_dir(self) -> Path:
        return self.root / "journal"

    @property
    def run_dir(self) -> Path:
        return self.root / "run"

    @property
    def venue_key_file(self) -> Path:
        return self.root / "venue.key"

    @property
    def generations_file(self) -> Path:
        return self.root / "key.generations"

    @property
    def database_file(self) -> Path:
        return self.root / "emte.db"

    def journal_file(self, ticker: str) -> Path:
        return self.journal_dir / f"{ticker}.log"

    def run_folder(self, run: int) -> Path:
        """Where the journals of a run that has ended are kept."""
        return self.root / "runs" / str(run)

    def run_journal_file(self, run: int, ticker: str) -> Path:
        return self.run_folder(run) / f"{ticker}.log"

    def lock_file(self, ticker: str) -> Path:
        """What the ticker's matching server holds.

        The names of other locks in `run/` have a dash, as no ticker has: one may be `web`.
        """
        return self.run_dir / f"{ticker}.lock"

    def make(self) -> None:
        """Make the folders, `var/` closed to others; Fatal (78, or 75) if that cannot be done."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (self.journal_dir, self.run_dir):
                folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise Fatal(code_of(error), f"cannot make {self.root}: {error.strerror}") from error
        for folder in (self.run_dir, self.journal_dir):
            if os.statvfs(folder).f_flag & os.ST_RDONLY:
                raise Fatal(ExitCode.DISK, f"{folder} is on a read-only file system")
        if not os.access(self.run_dir, os.W_OK) or not os.access(self.journal_dir, os.W_OK):
            raise Fatal(ExitCode.CONFIGURATION, f"cannot write in {self.root}")


def find_var(flag: str | None = None) -> Var:
    """`--var`, else $EMTE_VAR, else emte.toml's `var`, else the checkout's or ./var."""
    checkout = Path(__file__).resolve().parent.parent
    home = checkout if (checkout / "pyproject.toml").exists() else Path.cwd()
    return Var(Path(setting("var", flag, str(home / "var"))).absolute())


def setting(name: str, flag: str | None, default: str) -> str:
    """The value of a setting, as text, by the order of precedence above."""
    if flag is not None:
        return flag
    from_environment = os.environ.get(f"EMTE_{name.upper()}")
    if from_environment:
        return from_environment
    return str(_file_settings().get(name, default))


def _file_settings() -> Mapping[str, object]:
    path = Path("emte.toml")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Fatal(ExitCode.CONFIGURATION, f"{path.absolute()}: {error}") from error


def load_venue_key(var: Var) -> str:
    """The venue key of `var/venue.key`, made on first use (PROTOCOL §2).

    Written aside and linked, so that of many processes that start at once the losers read the
    winner's. Fatal (78) if the file can be read by others, or does not hold a key.
    """
    path = var.venue_key_file
    if not path.exists():
        _make_venue_key(path)
    try:
        if path.stat().st_mode & 0o077:
            raise Fatal(
                ExitCode.CONFIGURATION,
                f"{path} can be read by others: chmod 600 it, or make a new one",
            )
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Fatal(ExitCode.CONFIGURATION, f"cannot read {path}: {error}") from error
    if KEY.fullmatch(key) is None:
        raise Fatal(ExitCode.CONFIGURATION, f"{path} does not hold a key of 64 hex digits")
    return key


def _make_venue_key(path: Path) -> None:
    aside = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(handle, f"{secrets.token_hex(32)}\n".encode("ascii"))
            os.fsync(handle)
        finally:
            os.close(handle)
        try:
            os.link(aside, path)
        except FileExistsError:
            pass  # another process won the race; its key is the venue's
        finally:
            aside.unlink()
    except OSError as error:
        raise Fatal(code_of(error), f"cannot make {path}: {error.strerror}") from error


def choose_key(flag: str | None, var: Var, *, any_text: bool = False) -> str:
    """The key a client or server signs with: `-k KEY` or `-k @FILE`, $EMTE_HMAC_KEY, var/venue.key.

    Anything but 64 lowercase hex digits is refused (Fatal, 78), unless `any_text` (a demo on
    loopback, PROTOCOL §2).
    """
    given = flag if flag is not None else os.environ.get("EMTE_HMAC_KEY")
    if not given:
        return load_venue_key(var)
    if given.startswith("@"):
        try:
            given = Path(given[1:]).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Fatal(ExitCode.CONFIGURATION, f"cannot read the key file: {error}") from error
    if KEY.fullmatch(given) is None and not any_text:
        raise Fatal(
            ExitCode.CONFIGURATION, "a key is 64 lowercase hex digits (or @FILE holding them)"
        )
    return given


def read_generations(var: Var) -> dict[int, int]:
    """Owner → generation of `var/key.generations`; owners not in it have generation 1.

    Fatal (78) for a line that is not `owner generation`: guessing could let a revoked key in.
    """
    try:
        text = var.generations_file.read_text(encoding="ascii")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise Fatal(
            ExitCode.CONFIGURATION, f"cannot read {var.generations_file}: {error}"
        ) from error
    generations: dict[int, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        match = _GENERATION.fullmatch(line)
        if match is None:
            raise Fatal(
                ExitCode.CONFIGURATION,
                f"{var.generations_file} line {number}: {line!r} is not `owner generation`",
            )
        generations[int(match[1])] = int(match[2])
    return generations
