"""A run's folder as a place that processes are killed in: small files written whole, one writer at a time, nothing half-made left behind."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import time
from pathlib import Path
from typing import IO

from hepdist.errors import RunError
from hepdist.place import PART, place_of

LOCK = ".writer.lock"
PATIENCE_S = 120.0
"""How long a new attempt waits for the writer of an old one to end. Workers of a cluster whose head died notice it after a minute
(Ray's gcs_rpc_server_reconnect_timeout_s)."""


def write_whole(folder: Path, name: str, text: str) -> None:
    """Write a small file aside, sync and rename it: a kill leaves the old one or the new one, never a part."""
    place_of(folder).write(name, text.encode())


class Writer:
    """The right to write a run's folder: one process has it at a time, and loses it when it ends, however it ends.

    A lock of the system (flock) on a file in the folder, so it also holds between machines on file systems that carry locks (NFS 4).
    """

    def __init__(self, folder: Path, patience_s: float = PATIENCE_S) -> None:
        """Waits while a process of an earlier attempt still writes. Raises RunError when it does so for longer than `patience_s`."""
        self._path = folder / LOCK
        until = time.monotonic() + patience_s
        while (file := self._try()) is None:
            if time.monotonic() > until:
                raise RunError(
                    f"run '{folder.name}' is being written by another process ({_holder(self._path)}); wait for it or end it, then run the same command"
                )
            time.sleep(0.1)
        self._file = file
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()

    def release(self) -> None:
        """Take the lock's file away and let others in."""
        if not self._file.closed:
            self._path.unlink(missing_ok=True)
            self._file.close()

    def _try(self) -> IO[str] | None:
        file = open(self._path, "a+", encoding="utf-8")  # noqa: SIM115  closing it is what gives the lock back
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(self._path)):  # not one that its last holder has taken away
                return file
        except (BlockingIOError, FileNotFoundError):  # held, or taken away
            pass
        except OSError:  # a file system without locks: no worse than without this class
            return file
        file.close()
        return None


def sweep(folder: Path) -> None:
    """Remove what killed processes left half-made; call it as the folder's writer."""
    if (folder / ".model.old").is_dir() and not (folder / "model").is_dir():
        (folder / ".model.old").rename(folder / "model")  # killed between the two renames of a new best model
    for place in (folder, folder / "checkpoints", folder / "samples"):
        for path in [*place.glob(f".*{PART}"), *place.glob(".model.old")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") or "unknown"
    except OSError:
        return "unknown"
