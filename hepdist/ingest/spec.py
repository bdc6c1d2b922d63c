"""The options of `hepdist ingest`, typed and checked; each is given as key=value and none is needed for a source that explains itself."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, Len
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, ValidationInfo, field_validator, model_validator

from hepdist.ingest.emr_columns import number
from hepdist.spec import Spec, parse_pairs


class IngestSpec(Spec):
    emr: str | None = None
    """Table of EMR rows (CSV, TSV, Parquet, Excel) or FHIR resources, joined to the images by `emr_key`: a path, a URI, or a name inside the source."""
    emr_columns: tuple[str, ...] = ()
    """Columns of the EMR table to keep as features; empty: all that can be one."""
    emr_missing: tuple[str, ...] = ()
    """Texts that mean 'no value' in the EMR table besides blank, ?, NA and the like, such as 999."""
    patient_key: str | None = None
    """Column of a table that names the patient; None: the first of the usual names that is there."""
    label: str | None = None
    """Column of the EMR or label table that holds the class; rows without a value stay unlabelled."""
    label_names: tuple[str, ...] = ()
    """Class names in the order of their index; empty: as the source declares them, or the sorted values that occur."""
    unlabelled: tuple[str, ...] = ("", "todo", "unknown", "NA")
    """Label values that mean 'not known'; such images are kept without a label."""
    labels_table: str | None = None
    """Table of images and their labels (a path, a URI, or a name inside the source); None: a CSV inside the source that has a file column,
    where there is one. A row of DICOM may name a file, folder, instance, series, study or, in a table named here, patient."""
    file_key: str | None = None
    """Column of the label table that says what a row is of; None: the first of the usual names that is there."""
    label_pattern: str | None = None
    """Regular expression on an image's relative path whose first group is the label, such as '_([01])\\.png$'."""
    patient_pattern: str | None = None
    """Regular expression on an image's relative path whose first group is the patient, of DICOM in place of its PatientID (which public sets
    often empty); None: as a table, a folder or DICOM says, else each image is a patient."""
    masks: Literal["auto", "require", "ignore"] = "auto"
    """Masks beside images. auto: used where every image has one or nothing else labels the images; require: an image
    without a mask is quarantined; ignore: none is read."""
    classes: tuple[str, ...] = ()
    """Names of the mask's class indices, background first; empty: as the source declares them, or the values that occur."""
    modality: str | None = None
    """Keep only this DICOM modality (CT, MR, CR, DX, ...); None keeps the one that the most series have."""
    allow_burned_in: bool = False
    """Keep DICOM secondary captures and images whose header says that text is burned into the pixels: it may name the patient."""
    display: Literal["uint8", "uint16"] = "uint8"
    """Depth of DICOM radiographs after their window; uint16 keeps all that a 12-bit detector saw, at twice the size."""
    mask_pattern: str | None = None
    """Regular expression on a file's relative path that only masks match and whose first group is how their image's path
    begins, such as '^(.*)_lesion\\.nii'; None: masks are known by their folder or by a usual end of their name."""
    site_key: str | None = None
    """Column of the label table, or of the table that is the source, that names the institution, for split_by=site; None: the first of the usual names that is there."""
    date_key: str | None = None
    """Column of the label table, or of the table that is the source, that holds the study's day, for split_by=date; None: the first of the usual names that is there."""
    split_by: Literal["patient", "site", "date"] = "patient"
    """patient: official splits where there are any, else by salted hash; site: whole institutions in one split, to test on
    strangers; date: the oldest patients in train, the newest in test."""
    allow_unlabelled: bool = False
    """Take images that neither a label nor a mask belongs to, for a cohort that is only to be predicted on."""
    near_identical: bool = True
    """Patients who share an image that was encoded, resized or brightened anew count as one, as those of identical ones always do."""
    mask_folders: str | None = None
    """Regular expression on the folder of a DICOM series that holds a mask as slices of 0 and one other value; its first
    group, else the folder's own name, is the class. None: folders named for masks, and 8-bit CT, MR or PET, that hold two values."""
    frames: Literal["refuse", "first", "all"] = "refuse"
    """What becomes of a multi-frame DICOM object that is no volume, such as a cine: quarantined, its first frame, or each as an image."""
    emr_dictionary: str | None = None
    """YAML file that declares the EMR table's columns: type, unit, range, missing codes, categories; None: inferred."""
    emr_header: tuple[str, ...] = ()
    """Column names of an EMR table that has no header."""
    emr_key: Literal["patient", "study", "image"] = "patient"
    """What a row of the EMR table is of; its column is named by patient_key, by file_key for images, or in the dictionary."""
    emr_time: str | None = None
    """Column of the EMR table with the day or date of a visit, or 'none'; None: one of such a name, where patients have several rows."""
    emr_visits: PositiveInt | None = None
    """Visits kept of each patient, the last ones; None: the 95th percentile of their numbers."""
    emr_drop: tuple[str, ...] = ()
    """Columns of the EMR table to leave out, such as the follow-up that tells the label."""
    event: str | None = None
    """Column of the EMR table that says how a patient's follow-up ended; with event_values, event_time and horizon it makes the label
    (hepdist.ingest.horizon). None of these columns becomes a feature."""
    event_values: tuple[str, ...] = ()
    """Its values that are the event, such as 1,2; every other value means that the follow-up ended without it."""
    event_time: str | None = None
    """Column with the day or date on which it ended, counted like the visits' days; without visits, days since the row."""
    horizon: PositiveFloat | None = None
    """Days after the landmark within which the event counts; rows whose follow-up ends sooner without it stay unlabelled."""
    landmark: tuple[str, ...] = ("0",)
    """Days after the first visit from which the horizon counts; of the visits those until then are known. Several make several rows
    a patient, and 'visits' one at each visit."""
    label_rules: str | None = None
    """YAML file of rules that make labels of ICD codes and report texts in the EMR table, or the name of a shipped one ('hepatitis')."""
    keep_unmatched: bool = False
    """Keep EMR rows that no image belongs to, as rows without an image."""
    reidentification_map: str | None = None
    """File, outside the cohort, for the encrypted way back from pseudonyms to raw keys (hepdist reidentify); None: none is written."""
    reidentification_key: str | None = None
    """File that holds the secret of that map: a passphrase or random text of at least 16 bytes, kept apart from the map."""
    size: Annotated[tuple[PositiveInt, ...], Len(2, 3)] | None = None
    """Spatial shape of every image: H,W (resized, aspect kept, then padded) or D,H,W (cropped or padded about the
    centre). None: the common shape, or one that holds all volumes in multiples of 8."""
    brick: Annotated[tuple[PositiveInt, ...], Len(2, 3)] | None = None
    """D,H,W (or H,W): cut every volume into overlapping bricks of this spatial shape, a row each, instead of cropping it to `size`."""
    overlap: Annotated[float, Ge(0), Le(0.75)] = 0.25
    """Least share of a side that neighbouring bricks have in common (MONAI's default). In 3D a cohort grows by (1 - overlap)^-3, in bytes
    and in time to score: 2.4 times at 0.25, 8 times at 0.5."""
    spacing: Annotated[tuple[PositiveFloat, ...], Len(1, 3)] | None = None
    """Voxel size in mm that every image is resampled to, D,H,W or one for all axes (voxels, where the source has no
    spacing). None: as it is, or the median where volumes differ by more than 1 %."""
    dtype: Literal["auto", "uint8", "int16", "uint16", "float32"] = "auto"
    """How voxels are stored; auto: the narrowest of these that holds every source's type."""
    split: Annotated[tuple[NonNegativeFloat, ...], Len(3, 3)] = (6, 2, 2)
    """Shares of patients in train, val and test, for sources without an official split."""
    salt: str | None = None
    """File that holds the secret behind all pseudonyms and the split; None: $HEPDIST_SALT, else a file that is made
    once in ~/.config/hepdist/salt. The same salt and source give the same cohort."""
    workers: PositiveInt | None = None
    """Processes that read and write. None: this one alone for a small source, else one a CPU of the cluster."""
    overwrite: bool = False
    """Replace a cohort that is already there."""
    append: bool = False
    """Add to a cohort that is already there: what is in it stays as it is, and what is new is fitted to it."""

    @field_validator(
        "emr_columns",
        "emr_missing",
        "emr_header",
        "emr_drop",
        "event_values",
        "landmark",
        "label_names",
        "unlabelled",
        "classes",
        "size",
        "brick",
        "spacing",
        "split",
        mode="before",
    )
    @classmethod
    def _commas(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

    @field_validator("mask_folders", "label_pattern", "patient_pattern", "mask_pattern")
    @classmethod
    def _an_expression(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None:
            try:
                groups = re.compile(value).groups
            except re.error as error:
                raise ValueError(f"not a regular expression ({error})") from None
            if groups < 1 and info.field_name != "mask_folders":  # where the folder's own name stands in for a group
                raise ValueError("put the part to keep in parentheses, such as '_([01])\\.png$'")
        return value

    @field_validator("landmark")
    @classmethod
    def _days_or_visits(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        days = [number(text) for text in value]
        if value != ("visits",) and (not value or any(day is None or day < 0 for day in days) or len(set(days)) < len(days)):
            raise ValueError("give days from 0 on, each once, such as 0,365, or visits")
        return value

    @model_validator(mode="after")
    def _whole_horizon(self) -> IngestSpec:
        parts = {"event": self.event, "event_values": self.event_values, "event_time": self.event_time, "horizon": self.horizon}
        lacking = [name for name, value in parts.items() if not value]
        if lacking and len(lacking) < len(parts):
            raise ValueError(f"a label by horizon needs event=, event_values=, event_time= and horizon=; {lacking[0]} is missing")
        if not lacking and (self.label is not None or self.label_rules is not None):
            raise ValueError("event= makes the labels, so that label= and label_rules= can't; leave them out")
        if not lacking and len(self.label_names) not in (0, 2):
            raise ValueError("a label by horizon has two classes; give label_names as the one without the event, then the one with it")
        return self

    @model_validator(mode="after")
    def _map_with_key(self) -> IngestSpec:
        if (self.reidentification_map is None) != (self.reidentification_key is None):
            raise ValueError("a re-identification map needs both reidentification_map=FILE and reidentification_key=KEYFILE")
        return self

    @model_validator(mode="after")
    def _one_form(self) -> IngestSpec:
        if self.brick is not None and self.size is not None:
            raise ValueError("size= crops a volume and brick= cuts it into pieces; give one of them")
        if self.brick is None and "overlap" in self.model_fields_set:
            raise ValueError("overlap= is that of bricks; give brick=D,H,W too")
        return self

    @model_validator(mode="after")
    def _added_or_replaced(self) -> IngestSpec:
        if self.append and self.overwrite:
            raise ValueError("append=true adds to a cohort and overwrite=true replaces it; give one of them")
        return self

    @field_validator("split")
    @classmethod
    def _some_train(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if value[0] <= 0:
            raise ValueError("the share of train must be above 0, such as split=6,2,2")
        return value


def parse_options(options: list[str]) -> IngestSpec:
    """`key=value` strings as a checked spec; raises RecipeError with one sentence that names the key and the fix."""
    spec: IngestSpec = parse_pairs(IngestSpec, options, "ingest")
    return spec
