"""Which kind of source a path holds, by its content; raises one sentence where it is none that can be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from hepdist.errors import IngestError
from hepdist.ingest import images, medmnist, table, volumes
from hepdist.ingest.emr_known import KnownColumns
from hepdist.ingest.files import Files, is_hidden
from hepdist.ingest.sample import Source
from hepdist.ingest.spec import IngestSpec

PREAMBLE, MAGIC = 128, b"DICM"
PROBED = 100
"""Files without DICOM's preamble that are parsed in search of an older DICOM one, before the source counts as unknown."""


def open_source(
    files: Files,
    spec: IngestSpec,
    skip: frozenset[str] = frozenset(),
    each: Callable[..., Iterable[Any]] = map,
    known: KnownColumns | None = None,
) -> Source:
    """The reader for what is there; skip: files that are read by another door, such as the EMR table; each: like `map`, for headers;
    known: the EMR columns of the cohort that is added to.

    Raises IngestError.
    """
    visible = [name for name in files.names if not is_hidden(name) and name not in skip]
    if not visible:
        raise IngestError("the source holds no files; give a folder or archive that does")
    if len(visible) == 1 and visible[0].lower().endswith(".npz"):
        return medmnist.MedMNISTSource(files, spec)
    if table.is_table(files, spec, visible):
        return table.TableSource(files, spec, known)
    if volumes.has_volumes(visible):
        return volumes.VolumeSource(files, spec, skip)
    pictures = [name for name in visible if images.is_picture(name)]
    if _has_dicom(files, [name for name in visible if not images.is_picture(name)], thorough=not pictures):
        from hepdist.ingest.dicom_labels import LabelledDicom  # pydicom and its decoders take a second to import

        return LabelledDicom(files, spec, skip, each)
    if pictures:
        return images.ImageSource(files, spec, skip)
    raise IngestError(
        "the source is of no known kind; give a DICOM folder, a MedMNIST .npz, NIfTI volumes with masks or a label table,"
        " images with masks, class folders or a label table, one EMR table, or FHIR resources"
    )


def _has_dicom(files: Files, names: list[str], thorough: bool) -> bool:
    """Whether any file says that it is DICOM, by its name or by its preamble; thorough: or can be parsed as such."""
    if any(name.lower().endswith((".dcm", ".dicom")) for name in names):
        return True
    if any(files.head(name, PREAMBLE + len(MAGIC))[PREAMBLE:] == MAGIC for name in names):
        return True
    if not thorough:
        return False
    from hepdist.ingest.dicom_header import Header, read_header

    return any(isinstance(read_header(files, name), Header) for name in names[:PROBED])
