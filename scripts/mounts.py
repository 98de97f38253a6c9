"""The mount table: on which file system a folder is, and whether a journal may be there.

A journal needs a disk that does what it says: fdatasync returns when the bytes are on the medium,
and flock keeps a second server away, from whatever machine. Those of one machine's own disks do;
over a network, and in the upper layer of a container, nobody knows who promised what.

>>> mounts = linux_table("27 1 254:0 / / rw - ext4 /dev/vda rw")
>>> mounts += linux_table(r"40 27 0:50 / /mnt/our\\040class rw - nfs4 host:/class rw")
>>> find(mounts, Path("/mnt/our class/var"))
Mount(point=PosixPath('/mnt/our class'), kind='nfs4', source='host:/class')
>>> kind_of_disk("nfs4").value
'network'
"""

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path


@dataclass(frozen=True)
class Mount:
    """One line of the table: where, which file system, and of what."""

    point: Path
    kind: str
    source: str


class Disk(Enum):
    """What a file system is to a journal."""

    OWN = "a disk of this machine"
    NETWORK = "network"
    CONTAINER = "container"
    MEMORY = "memory"
    UNKNOWN = "unknown"


_KINDS = {
    Disk.OWN: "ext[234]|xfs|btrfs|zfs|f2fs|jfs|reiserfs|nilfs2|bcachefs|apfs|hfs|ufs",
    # What runs in a user's program (fuse.) may do anything.
    Disk.NETWORK: "nfs[34]?|cifs|smb[23]?|smbfs|afpfs|webdav|davfs2?|gpfs|lustre|beegfs|pvfs2"
    "|orangefs|ceph|glusterfs|ocfs2|gfs2?|9p|afs|coda|ncpfs|vboxsf|prl_fs|vmhgfs|virtiofs|fuse\\..*",
    Disk.CONTAINER: "overlay|overlayfs|aufs",
    Disk.MEMORY: "tmpfs|ramfs|devtmpfs",
}


def kind_of_disk(kind: str) -> Disk:
    """What a file system of this name is."""
    for disk, names in _KINDS.items():
        if re.fullmatch(names, kind):
            return disk
    return Disk.UNKNOWN


def table() -> list[Mount]:
    """The table of this machine; empty where it cannot be read."""
    try:
        if sys.platform == "linux":
            return linux_table(Path("/proc/self/mountinfo").read_text(encoding="utf-8"))
        done = subprocess.run(["mount"], capture_output=True, text=True, timeout=10, check=False)
        return mac_table(done.stdout)
    except (OSError, subprocess.TimeoutExpired):
        return []


def linux_table(text: str) -> list[Mount]:
    """The table in the form of /proc/self/mountinfo."""
    found = []
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        words, ends = before.split(" "), after.split(" ")
        if separator and len(words) >= 5 and len(ends) >= 2:
            found.append(Mount(Path(_unescape(words[4])), ends[0], _unescape(ends[1])))
    return found


def mac_table(text: str) -> list[Mount]:
    """The table in the form in which `mount` prints it on macOS.

    >>> mac_table("/dev/disk3s1 on /System/Volumes/Data (apfs, local, journaled)")
    [Mount(point=PosixPath('/System/Volumes/Data'), kind='apfs', source='/dev/disk3s1')]
    """
    lines = (re.fullmatch(r"(.+?) on (/.*) \(([^,)]+).*\)", line) for line in text.splitlines())
    return [Mount(Path(line[2]), line[3], line[1]) for line in lines if line is not None]


def find(mounts: Sequence[Mount], path: Path) -> Mount | None:
    """The mount that a path without links lies on; of several at one place the last, which hides
    the others.
    """
    holding = [mount for mount in mounts if path.is_relative_to(mount.point)]
    deepest = max((len(mount.point.parts) for mount in holding), default=0)
    return next((m for m in reversed(holding) if len(m.point.parts) == deepest), None)


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
