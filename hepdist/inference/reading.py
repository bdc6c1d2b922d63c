"""What is to be predicted, opened as ingest opens a source: the same discovery, checks and refusals, towards the form a model was trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from hepdist.errors import RecipeError
from hepdist.inference.case import Case
from hepdist.ingest.called import image_names, rows_by_name
from hepdist.ingest.detect import open_source
from hepdist.ingest.emr import EMRTable
from hepdist.ingest.emr_known import ColumnKey, KnownColumns
from hepdist.ingest.emr_sequence import pack
from hepdist.ingest.files import Files
from hepdist.ingest.join import file_findings, read_emr, table_of
from hepdist.ingest.pseudonym import Pseudonyms
from hepdist.ingest.sample import Finding, Sample
from hepdist.ingest.spec import IngestSpec, parse_options
from hepdist.ingest.table import TableSource
from hepdist.training.saved_model import Signature

AS_TRAINED = ("display", "frames", "modality")
"""Options of the cohort's ingest that decide what a source's images are; those that decide their form are in the layout."""
NOT_HERE = frozenset(
    [
        "append",
        "brick",
        "classes",
        "dtype",
        "event",
        "event_time",
        "event_values",
        "horizon",
        "label",
        "label_names",
        "label_pattern",
        "label_rules",
        "labels_table",
        "landmark",
        "masks",
        "near_identical",
        "overlap",
        "overwrite",
        "reidentification_key",
        "reidentification_map",
        "salt",
        "size",
        "spacing",
        "split",
        "split_by",
        "unlabelled",
    ]
)
"""Options of ingest that say what a cohort becomes, and mean nothing where none is made."""


class Reading:
    """A source whose items become cases, one by one and in any process. Pickles without `items` and `findings`."""

    def __init__(
        self,
        source: str,
        signature: Signature,
        options: Sequence[str],
        names: Pseudonyms,
        each: Callable[..., Iterable[Any]] = map,
    ) -> None:
        """source: a folder, archive or file, or a URI; options: key=value of ingest that say how it is laid out, such as emr=labs.csv.

        each: like `map`, for the pass over DICOM headers. Raises IngestError and RecipeError.
        """
        spec = reading_spec(signature, options)
        files = Files(source)
        table, inside = table_of(files, spec)
        self.stamp = "" if table is None else table.stamp()
        """Differs once the EMR table beside the images was written again."""
        known = KnownColumns(
            signature.emr, signature.sequence, tuple(ColumnKey.of(c, names) for c in (*signature.emr, *signature.sequence)), names
        )
        self._length = signature.fields["sequence"].shape[0] if signature.sequence else 0
        self._by = spec.emr_key
        self.source = open_source(files, spec, inside, each, known)
        self.kind = self.source.kind
        self.files = files
        self.items: Sequence[Any] = self.source.items
        others = [Finding(name, "ignored", "not-a-file", reason) for name, reason in files.skipped]
        self.findings: list[Finding] = [*others, *self.source.findings]
        self.table: EMRTable | None = None
        if isinstance(self.source, TableSource):
            self.table = self.source.table
            self._by = "image" if self.table.patients else "patient"  # several rows a patient: each is a case of its own
        elif table is not None:
            name = next(iter(inside)) if len(inside) == 1 else table.name
            self.table = read_emr(table, spec, known=known)
            self.findings += [*file_findings(self.table, name), *self.table.findings]
        rows = self.table.rows if self.table is not None else {}
        self._rows = rows_by_name(rows) if self._by == "image" else dict(zip(rows, rows, strict=True))
        """Key of the row by the names of what it may belong to."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("items", "findings")}

    def read(self, item: Any) -> Iterator[Case | Finding]:
        """The cases of one item; every file of it is in a case or in a finding."""
        for found in self.source.read(item):
            yield self._with_values(found) if isinstance(found, Sample) else found

    def _with_values(self, sample: Sample) -> Case:
        if self.table is None:
            return Case(sample)
        keys = {"patient": (sample.patient,), "study": (sample.study,), "image": image_names(sample.key, sample.patient)}[self._by]
        key = next((self._rows[name] for name in keys if name in self._rows), "")
        visits = self.table.sequences.get(key)
        return Case(sample, self.table.rows.get(key, {}), pack(visits, self._length) if visits is not None and self._length else None)


def reading_spec(signature: Signature, options: Sequence[str]) -> IngestSpec:
    """The options given, and for the rest those that the model's cohort was made with. Raises RecipeError."""
    for option in options:
        key = option.partition("=")[0]
        if key in NOT_HERE:
            raise RecipeError(f"option '{key}' says what a cohort becomes; predict takes the form of the model's own, so leave it out")
    asked = parse_options(list(options))
    kept = signature.origin.get("options", {})
    before = {key: kept[key] for key in AS_TRAINED if key in kept and key not in asked.model_fields_set}
    return asked.model_copy(update={**before, "masks": "ignore", "allow_unlabelled": True})
