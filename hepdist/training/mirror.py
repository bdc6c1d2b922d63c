"""A run's checkpoints in a second place, such as s3://bucket/runs: for machines that vanish with their disks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from hepdist.errors import RunError
from hepdist.place import place_of
from hepdist.training.checkpoint import SUMS, newest_first, verify
from hepdist.training.metrics_file import METRICS

FACTS = ("recipe.yaml", "cohort.sha256", METRICS)
"""Small files of a run that tell a new machine what it goes on with."""
KEPT = ("checkpoints", "model")


class Mirror:
    """Copies of whole folders of a run under `place/name/`. A folder's sums go up last, so one without them is not whole, and is not seen.

    Raises StoreError where the store can't be reached; on this machine, what the system raises.
    """

    def __init__(self, place: str, run: Path) -> None:
        self.place, self.run = place_of(f"{place.rstrip('/')}/{run.name}"), run

    def upload(self, checkpoint: Path, samples: int | None) -> None:
        """Copy a checkpoint, and the exported model where this one is the best (`samples` of training), then delete what the run has not
        kept; of the models only the newest is.
        """
        if samples is not None:
            self._send(self.run / "model", f"model/samples-{samples:012d}")
        self._send(checkpoint, f"checkpoints/{checkpoint.name}")
        for name in FACTS:
            if (self.run / name).exists():
                self.place.upload(name, self.run / name)
        kept = {path.name for path in newest_first(self.run / "checkpoints")}
        models = self._whole("model")
        for kind, stale in (("checkpoints", set(self._whole("checkpoints")) - kept), ("model", set(models[1:]))):
            for name in sorted(stale):
                self.place.remove(f"{kind}/{name}/{SUMS}")  # first, so that it is not whole any more
                self.place.remove_tree(f"{kind}/{name}")

    def tell(self, folder: Path) -> None:
        """Put there what says which experiment is mirrored; nothing where none is."""
        for name in FACTS:
            if self.place.exists(name):
                (folder / name).write_bytes(self.place.read(name))

    def fetch(self) -> bool:
        """Take over what the run's folder on this machine lacks, if the mirror is ahead of it; says whether it was.

        A checkpoint that arrives damaged is left where it is, and the one before is the newest.
        """
        ours, theirs = [path.name for path in newest_first(self.run / "checkpoints")], self._whole("checkpoints")
        if not theirs or (ours and ours[0] >= theirs[0]):
            return False
        self.run.mkdir(parents=True, exist_ok=True)
        self.tell(self.run)
        arrived = [self._receive(f"checkpoints/{name}", self.run / "checkpoints" / name) for name in theirs if name not in ours]
        for name in self._whole("model")[:1]:
            shutil.rmtree(self.run / "model", ignore_errors=True)
            self._receive(f"model/{name}", self.run / "model")
        return any(arrived)

    def clear(self) -> None:
        self.place.remove_tree()

    def _whole(self, kind: str) -> list[str]:
        """Names of the complete folders of a kind, newest first."""
        names = (name.split("/") for name in self.place.names(kind))
        return sorted((parts[1] for parts in names if len(parts) == 3 and parts[2] == SUMS), reverse=True)

    def _send(self, folder: Path, name: str) -> None:
        sums = json.loads((folder / SUMS).read_text())
        for file in (*sorted(sums), SUMS):
            self.place.upload(f"{name}/{file}", folder / file)

    def _receive(self, name: str, folder: Path) -> bool:
        part = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        sums = self.place.read(f"{name}/{SUMS}")
        (part / SUMS).write_bytes(sums)
        for file in json.loads(sums):
            with self.place.reaching(), self.place.open_input(f"{name}/{file}") as source, open(part / file, "wb") as target:
                source.download(target)
        try:
            verify(part)
        except RunError as error:
            print(f"hepdist: of {self.place}, {error}; falling back to what was before", flush=True)
            shutil.rmtree(part)
            return False
        part.rename(folder)
        return True
