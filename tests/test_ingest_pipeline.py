"""What every cohort keeps, whatever its source: determinism, one split a patient, the EMR join, refusals, and no raw name in any byte."""

from __future__ import annotations

import base64
import shutil
import stat
from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from salts import SALT

from hepdist.errors import CohortError, IngestError, RecipeError
from hepdist.ingest import ingest
from hepdist.ingest.check import check_cohort
from hepdist.ingest.pseudonym import Pseudonyms, read_salt
from hepdist.phantom import write_phantom
from hepdist.shards.format import decode
from hepdist.shards.manifest import SPLITS, Manifest

pytestmark = pytest.mark.usefixtures("salt")


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "files"
    write_phantom(folder, 15, 0, ct=False)
    return folder


def write_pictures(folder: Path, count: int = 20) -> None:
    """Two classes by folder, random pictures."""
    for i in range(count):
        path = folder / ("well" if i % 4 else "ill") / f"image{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (12, 12), dtype=np.uint8)).save(path)


def everything(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_same_source_options_and_salt_give_the_same_bytes(tmp_path):
    write_pictures(tmp_path / "source")
    one = ingest(str(tmp_path / "source"), str(tmp_path / "1/cohort"))
    other = ingest(str(tmp_path / "source"), str(tmp_path / "2/cohort"))
    assert everything(tmp_path / "1/cohort") == everything(tmp_path / "2/cohort")
    assert one.sha256() == other.sha256() == Manifest.load(tmp_path / "1/cohort").sha256()


def test_another_salt_gives_other_pseudonyms_and_another_split(tmp_path, monkeypatch):
    write_pictures(tmp_path / "source")
    one = ingest(str(tmp_path / "source"), str(tmp_path / "1"))
    monkeypatch.setenv("HEPDIST_SALT", SALT[::-1])
    other = ingest(str(tmp_path / "source"), str(tmp_path / "2"))
    people = [pq.read_table(f / one.of("train")[0].path)["patient"].to_pylist() for f in (tmp_path / "1", tmp_path / "2")]
    assert [one.rows(s) for s in SPLITS] == [other.rows(s) for s in SPLITS] == [12, 4, 4]
    assert not set(people[0]) & set(people[1])


def test_progress_rises_to_its_total(tmp_path):
    write_pictures(tmp_path / "source")
    calls: list[tuple[int, int]] = []
    ingest(str(tmp_path / "source"), str(tmp_path / "cohort"), progress=lambda done, total: calls.append((done, total)))
    assert calls == sorted(calls)
    assert calls[-1] == (40, 40)


def test_an_existing_cohort_is_replaced_only_on_request_and_other_folders_never(tmp_path):
    write_pictures(tmp_path / "source")
    ingest(str(tmp_path / "source"), str(tmp_path / "cohort"))
    with pytest.raises(IngestError, match=r"exists already; choose another folder or replace it with overwrite=true$"):
        ingest(str(tmp_path / "source"), str(tmp_path / "cohort"))
    assert ingest(str(tmp_path / "source"), str(tmp_path / "cohort"), ["overwrite=true", "size=8,8"]).fields["image"].shape == (1, 8, 8)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter1.tex").write_text("years of work")
    with pytest.raises(IngestError, match=r"exists and is not a cohort; choose another folder$"):
        ingest(str(tmp_path / "source"), str(tmp_path / "thesis"), ["overwrite=true"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cohort", "source", "thesis"]


def test_leftovers_of_a_killed_ingest_change_nothing(tmp_path):
    write_pictures(tmp_path / "source")
    clean = ingest(str(tmp_path / "source"), str(tmp_path / "1/cohort"))
    (tmp_path / "2/cohort.part/shards").mkdir(parents=True)
    (tmp_path / "2/cohort.part/shards/train-00007.parquet").write_bytes(b"half a shard")
    assert ingest(str(tmp_path / "source"), str(tmp_path / "2/cohort")).sha256() == clean.sha256()
    assert everything(tmp_path / "2/cohort") == everything(tmp_path / "1/cohort")
    assert sorted(p.name for p in (tmp_path / "2").iterdir()) == ["cohort"]


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("labl=finding", "ingest key 'labl' is unknown; did you mean 'label'?"),
        ("size", "ingest option 'size' is not of the form key=value"),
        ("split=0,5,5", "ingest key 'split' is '0,5,5': the share of train must be above 0, such as split=6,2,2"),
        ("label_pattern=_[01]", r"ingest key 'label_pattern' is '_[01]': put the part to keep in parentheses, such as '_([01])\.png$'"),
        ("size=8,8,8", "ingest key 'size' has 3 values, but the images have 2 axes; give H,W"),
    ],
)
def test_a_bad_option_is_refused_in_one_sentence(tmp_path, option, sentence):
    write_pictures(tmp_path / "source", 4)
    with pytest.raises(RecipeError) as refused:
        ingest(str(tmp_path / "source"), str(tmp_path / "cohort"), [option])
    assert str(refused.value) == sentence
    assert not (tmp_path / "cohort").exists()


def test_a_source_that_is_none_is_refused_with_what_would_be_one(tmp_path):
    with pytest.raises(IngestError, match=r"does not exist; give a folder, a tar archive or an .npz file$"):
        ingest(str(tmp_path / "nowhere"), str(tmp_path / "cohort"))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("a")
    with pytest.raises(IngestError, match=r"^the source is of no known kind; give a DICOM folder"):
        ingest(str(tmp_path / "texts"), str(tmp_path / "cohort"))


def test_a_cohort_with_a_patient_in_two_splits_is_refused_by_name(tmp_path):
    write_pictures(tmp_path / "source")
    manifest = ingest(str(tmp_path / "source"), str(tmp_path / "cohort"))
    check_cohort(tmp_path / "cohort", manifest)
    train, test = (tmp_path / "cohort" / manifest.of(split)[0].path for split in ("train", "test"))
    patient = pq.read_table(train)["patient"][0].as_py()
    table = pq.read_table(test)
    moved = table.set_column(table.column_names.index("patient"), "patient", pa.array([patient] * len(table)))
    pq.write_table(moved, test, row_group_size=len(table))
    with pytest.raises(CohortError) as refused:
        check_cohort(tmp_path / "cohort", manifest)
    assert str(refused.value) == f"cohort 'cohort': patient {patient[:4]}… is in train and test; ingest it again"


def test_a_cohort_whose_shards_are_not_the_manifests_is_refused(tmp_path):
    write_pictures(tmp_path / "source")
    manifest = ingest(str(tmp_path / "source"), str(tmp_path / "cohort"))
    shard = tmp_path / "cohort" / manifest.of("val")[0].path
    whole = shard.read_bytes()
    shutil.copy(tmp_path / "cohort" / manifest.of("test")[0].path, shard)  # 4 rows as well
    with pytest.raises(CohortError, match=r"cohort 'cohort': shards/val-00000.parquet holds rows of test; ingest it again"):
        check_cohort(tmp_path / "cohort", manifest)
    pq.write_table(pq.read_table(shard).drop_columns(["image"]), shard)
    with pytest.raises(CohortError, match="has other tensor columns than the manifest"):
        check_cohort(tmp_path / "cohort", manifest)
    shard.write_bytes(whole[:-9])
    with pytest.raises(CohortError, match=r"shards/val-00000.parquet is missing or damaged; ingest it again"):
        check_cohort(tmp_path / "cohort", manifest)


def test_phantom_xrays_join_their_emr_rows_and_take_their_label_from_them(phantom, tmp_path):
    options = [f"emr={phantom / 'emr.csv'}", "label=hepatitis"]
    manifest = ingest(str(phantom / "dicom"), str(tmp_path / "cohort"), options)
    assert [manifest.rows(split) for split in SPLITS] == [9, 3, 3]
    assert manifest.label_names == ("no", "yes")
    names = [column.name for column in manifest.emr]
    assert "hepatitis" not in names
    lines = [dict(zip(*(line.split(",") for line in pair), strict=True)) for pair in with_header(phantom / "emr.csv")]
    pseudonyms = Pseudonyms(SALT.encode())
    by_patient = {pseudonyms.of("patient", line["patient_id"]): line for line in lines}
    alt, present = names.index("alt"), []
    for split in SPLITS:
        for shard in manifest.of(split):
            table = pq.read_table(tmp_path / "cohort" / shard.path)
            emr, missing = (decode(manifest.fields[n], table[n]) for n in ("emr", "emr_missing"))
            for i, (patient, label) in enumerate(zip(table["patient"].to_pylist(), table["label"].to_pylist(), strict=True)):
                line = by_patient[patient]
                assert manifest.label_names[label] == line["hepatitis"]
                assert missing[i, alt] == (line["alt"] == "")
                assert emr[i, alt] == float(line["alt"] or 0)
                if split == "train" and line["alt"]:
                    present.append(float(line["alt"]))
    assert manifest.normalisation["emr"]["mean"][alt] == pytest.approx(np.mean(present), rel=1e-12)
    assert manifest.normalisation["emr"]["std"][alt] == pytest.approx(np.std(present), rel=1e-12)
    categories = [i for i, column in enumerate(manifest.emr) if column.kind == "category"]
    assert categories and all(
        manifest.normalisation["emr"]["mean"][i] == 0 and manifest.normalisation["emr"]["std"][i] == 1 for i in categories
    )
    assert manifest.emr[alt].missing_share == pytest.approx(sum(not line["alt"] for line in lines) / len(lines))


def with_header(path: Path) -> list[tuple[str, str]]:
    header, *lines = path.read_text().splitlines()
    return [(header, line) for line in lines]


def test_emr_rows_of_nobody_are_in_the_audit_and_images_without_a_row_are_kept(phantom, tmp_path):
    header, first, *others = (phantom / "emr.csv").read_text().splitlines()
    stranger = first.replace(first.split(",")[0], "PH-999999")
    (tmp_path / "emr.csv").write_text("\n".join([header, *others, stranger]))
    manifest = ingest(str(phantom / "dicom"), str(tmp_path / "cohort"), [f"emr={tmp_path / 'emr.csv'}", "label=hepatitis"])
    assert sum(manifest.rows(split) for split in SPLITS) == 15
    audit = pq.read_table(tmp_path / "cohort/audit.parquet").to_pylist()
    assert [(r["outcome"], r["reason"]) for r in audit if r["check"] == "unknown-patient"] == [
        ("quarantined", "no image belongs to the patient of this row")
    ]
    lost = Pseudonyms(SALT.encode()).of("patient", first.split(",")[0])
    for shard in manifest.shards:
        table = pq.read_table(tmp_path / "cohort" / shard.path)
        missing = decode(manifest.fields["emr_missing"], table["emr_missing"])
        for i, patient in enumerate(table["patient"].to_pylist()):
            assert (table["label"][i].as_py() is None) == (patient == lost)
            assert missing[i].all() == (patient == lost)


def test_an_emr_table_of_other_patients_is_refused(phantom, tmp_path):
    (tmp_path / "emr.csv").write_text("patient_id,alt\nA,3\nB,4\n")
    with pytest.raises(IngestError, match=r"^no row of the EMR table belongs to a patient of the images; name its patient column"):
        ingest(str(phantom / "dicom"), str(tmp_path / "cohort"), [f"emr={tmp_path / 'emr.csv'}"])


def test_a_label_column_without_a_table_is_refused(phantom, tmp_path):
    with pytest.raises(
        IngestError,
        match=r"^ingest key 'label' is 'hepatitis', a column, but there is no table; add emr=TABLE.csv or labels_table=TABLE.csv$",
    ):
        ingest(str(phantom / "dicom"), str(tmp_path / "cohort"), ["label=hepatitis"])


def test_no_raw_key_or_name_is_in_any_byte_that_ingest_writes(tmp_path, capsys):
    source = tmp_path / "source"
    canaries = []
    lines = ["file,patient_id,label,Comment"]
    for i in range(8):
        name, patient, text = f"CANARYNAME{i}", f"CANARYPATIENT{i}", f"CANARYTEXT{i}"
        canaries += [name, patient, text]
        path = source / f"CANARYFOLDER{i}" / f"{name}.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (12, 12), dtype=np.uint8)).save(path)
        lines.append(f"{name}.png,{patient},{i % 2},{text}")
    lines += ["CANARYGHOST.png,CANARYSTRANGER,1,CANARYWORD"]
    (source / "CANARYTABLE.csv").write_text("\n".join(lines))
    (source / "CANARYFOLDER0/CANARYBROKEN.png").write_bytes(b"CANARYBYTES")
    (source / ".CANARYHIDDEN").write_bytes(b"x")
    ingest(str(source), str(tmp_path / "1"))
    volumes = tmp_path / "volumes"
    for i in range(3):
        for folder in ("imagesTr", "labelsTr"):
            (volumes / folder).mkdir(parents=True, exist_ok=True)
            image = nib.Nifti1Image(np.eye(4, dtype=np.uint8)[:, :, None].repeat(4, axis=2), np.eye(4))
            image.header["descrip"] = b"CANARYDESCRIP"
            nib.save(image, volumes / folder / f"CANARYCASE{i}.nii.gz")
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4)), volumes / "labelsTr/CANARYLONELY.nii.gz")
    ingest(str(volumes), str(tmp_path / "2"))
    printed = capsys.readouterr()
    outputs = everything(tmp_path / "1") | {f"2/{k}": v for k, v in everything(tmp_path / "2").items()}
    outputs["printed"] = (printed.out + printed.err).encode()
    assert len(outputs) > 8
    assert SALT.encode() not in b"".join(outputs.values())
    for name, data in outputs.items():
        for encoded in (
            b"CANARY",
            b"canary",
            "CANARY".encode("utf-16-le"),
            base64.b64encode(b"CANARY"),
            b"CANARY".hex().encode(),
        ):
            assert encoded not in data, name


def test_a_salt_is_made_once_and_kept_from_others(tmp_path, monkeypatch):
    monkeypatch.delenv("HEPDIST_SALT")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    first = read_salt(None)
    assert len(first) == 64
    assert read_salt(None) == first
    assert stat.S_IMODE((tmp_path / ".config/hepdist/salt").stat().st_mode) == 0o600
    assert [p.name for p in (tmp_path / ".config/hepdist").iterdir()] == ["salt"]


def test_a_salt_that_can_be_guessed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HEPDIST_SALT", "1234")
    with pytest.raises(
        IngestError, match=r"^\$HEPDIST_SALT holds 4 bytes; a secret needs at least 16, such as the output of: openssl rand"
    ):
        read_salt(None)
    with pytest.raises(IngestError, match="which is no file; make one with: openssl rand -hex 32"):
        read_salt(str(tmp_path / "none"))
