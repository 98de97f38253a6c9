"""What the tests of the scripts share: looking at the processes of one var/."""

import subprocess
from pathlib import Path

from matching.pidfile import read_pid


def processes_of(var: Path) -> dict[int, str]:
    """Process id → command line of everything that works in this var/; zombies are no processes."""
    listing = subprocess.run(
        ["ps", "-ww", "-eo", "pid=,stat=,args="], capture_output=True, text=True, check=True
    )
    found = {}
    for line in listing.stdout.splitlines():
        pid, stat, command = line.split(None, 2)
        if f"--var {var}" in command and not stat.startswith("Z"):
            found[int(pid)] = command
    return found


def pid_of(var: Path, name: str) -> int | None:
    """The process id in a pid file, if that process runs."""
    pid = read_pid(var / "run" / f"{name}.pid")
    return pid if pid in processes_of(var) else None
