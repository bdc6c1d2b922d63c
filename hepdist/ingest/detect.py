"""Which kind of source a path holds, by its content; raises one sentence where it is none that can be read."""

from __future__ import annotations

from hepdist.errors import IngestError
from hepdist.ingest import decathlon, medmnist
from hepdist.ingest.files import Files, is_hidden
from hepdist.ingest.sample import Source
from hepdist.ingest.spec import IngestSpec

PROBED = 200
"""Files opened to look for DICOM's magic number, where names say nothing."""


def open_source(files: Files, spec: IngestSpec) -> Source:
    """The reader for what is there. Raises IngestError."""
    visible = [name for name in files.names if not is_hidden(name)]
    if not visible:
        raise IngestError("the source holds no files; give a folder or archive that does")
    if len(files.names) == 1 and visible[0].lower().endswith(".npz"):
        return medmnist.MedMNISTSource(files, spec)
    if decathlon.has_pairs(visible):
        return decathlon.DecathlonSource(files, spec)
    raise IngestError(
        "the source is of no known kind; give a DICOM folder, a MedMNIST .npz, a folder or tar of NIfTI pairs (imagesTr, labelsTr),"
        " or images with masks, class folders, or a label table"
    )
