"""From a hospital's files to a cohort; `ingest` is the one way in, and its readers are imported only when it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hepdist.shards.manifest import Manifest

__all__ = ["ingest"]


def ingest(source: str, cohort: str, options: list[str] | None = None, progress: Callable[[int, int], None] | None = None) -> Manifest:
    """Make the cohort folder `cohort` from the files at `source`; options are key=value of IngestSpec.

    progress(done, total) is called as items are read and rows are written.
    Raises IngestError or RecipeError; a single bad file never does, it goes to COHORT/audit.parquet.
    """
    from hepdist.ingest.pipeline import run

    return run(source, cohort, options or [], progress)
