"""FHIR R4 resources as the records of an EMR table: a row for each patient and day, a column for each LOINC code, conditions as texts.

HL7 FHIR R4 (v4.0.1): Patient, Observation, Condition and DiagnosticReport, in a Bundle, as NDJSON (bulk export), or a folder of both.
"""

from __future__ import annotations

import datetime
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hepdist.errors import IngestError
from hepdist.ingest.emr_columns import number
from hepdist.ingest.emr_read import Records, TableFiles
from hepdist.ingest.emr_units import analyte_of, factor
from hepdist.ingest.fhir_loinc import LOINC, UNITS
from hepdist.ingest.files import Files
from hepdist.ingest.sample import Finding

FHIR_KINDS = (".json", ".ndjson")
PATIENT, DATE = "patient", "date"
"""Headers of the columns that every row has."""
CODE_SYSTEMS = {
    "http://hl7.org/fhir/sid/icd-10": "icd10", "http://hl7.org/fhir/sid/icd-10-cm": "icd10", "http://hl7.org/fhir/sid/icd-9-cm": "icd9",
    "http://snomed.info/sct": "snomed",
}  # fmt: skip
"""Text column of each code system of conditions; for label rules, never features."""
REPORT = "report"
"""Text column of diagnostic reports' conclusions."""
OLDEST = 90
"""Years: older patients are rare enough to be known by their age (45 CFR 164.514(b)(2)(i)(C))."""
PROBED = 4096
_UNTRUE = frozenset({"entered-in-error", "cancelled", "refuted"})


@dataclass
class _Reading:
    """A value of one patient on one day, as the resource writes it."""

    subject: str
    """Reference to the patient."""
    date: str
    """ISO, or blank."""
    column: str
    text: str
    unit: str | None
    """None for what has no unit, such as a coded result."""
    where: str


@dataclass
class _Found:
    """What the resources hold, before references are resolved: a patient may come after what is said of them."""

    keys: dict[str, str] = field(default_factory=dict)
    """Patient key by reference."""
    people: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Patient resource by patient key."""
    readings: list[_Reading] = field(default_factory=list)
    texts: list[tuple[str, str, str]] = field(default_factory=list)
    """(column, reference to the patient, text)"""
    others: int = 0
    """Resources of kinds that are not read."""

    def key(self, reference: str) -> str:
        """The patient that 'Patient/17', 'Patient/17/_history/2', 'https://server/fhir/Patient/17' or 'urn:uuid:...' refers to.

        One whose resource isn't there is called by its id, unless that is another patient's record number.
        """
        reference = reference.partition("/_history/")[0]
        last = "/".join(reference.split("/")[-2:])
        known = self.keys.get(reference) or self.keys.get(last)
        alone = reference.split("/")[-1].removeprefix("urn:uuid:")
        return known or (reference if alone in self.people else alone)


def is_fhir(table: TableFiles) -> bool:
    """Whether a file, or the first JSON file of a folder, holds FHIR resources, by its beginning."""
    first = min(_files(table).values(), default=None)
    return first is not None and b'"resourceType"' in table.files.head(first, PROBED)


def read_fhir(table: TableFiles, identifier: str | None = None) -> Records:
    """Columns `patient`, `date`, `sex`, `age [years]` (at the first observation) and one for each code; texts by CODE_SYSTEMS and `report`.

    identifier: 'id' to name patients by their resource id, or the system of the identifier to take; None: the medical record
    number (type MR), else the first identifier, else the id. Known analytes are converted to their unit in emr_units, other numbers
    to the unit that most values of their code have. Raises IngestError where no patient is named at all.
    """
    found, findings = _Found(), list[Finding]()
    files = _files(table)
    for name, file in files.items():
        for where, full_url, resource in _resources(name, file, table.files, findings):
            try:
                _take(where, full_url, resource, found, findings, identifier)
            except (KeyError, TypeError, AttributeError, ValueError, IndexError):
                findings.append(Finding(where, "quarantined", "not-fhir", "the resource isn't as FHIR R4 says"))
    if found.others:
        reason = f"{found.others} resources of kinds that are not read"
        findings.append(Finding(f"{table.name}#others", "ignored", "resource-kind", reason))
    return _records(table.name, {name: table.files.sha256(file) for name, file in files.items()}, found, findings)


def _files(table: TableFiles) -> dict[str, str]:
    return {shown: name for shown, name in table.names.items() if name.lower().endswith(FHIR_KINDS)}


def _resources(name: str, file: str, files: Files, findings: list[Finding]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Each resource with its place and its full URL. A file that can't be read is a finding."""
    try:
        if file.lower().endswith(".ndjson"):
            with files.open(file) as lines:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        yield from _parsed(f"{name}#{number}", line, findings)
        else:
            yield from _parsed(name, files.read(file), findings)
    except OSError:
        findings.append(Finding(name, "quarantined", "unreadable", "the file can't be read"))


def _parsed(where: str, data: bytes, findings: list[Finding]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    try:
        resource = json.loads(data.decode("utf-8-sig"), parse_float=str, parse_int=str)  # decimals as they are written
    except (ValueError, RecursionError):
        findings.append(Finding(where, "quarantined", "truncated", "is no JSON in UTF-8"))
        return
    if not isinstance(resource, dict) or not isinstance(resource.get("resourceType"), str):
        findings.append(Finding(where, "quarantined", "not-fhir", "is no FHIR resource"))
    elif resource["resourceType"] != "Bundle":
        yield where, "", resource
    else:
        entries = resource.get("entry", [])
        for number, entry in enumerate(entries if isinstance(entries, list) else [], 1):
            inner = entry.get("resource") if isinstance(entry, dict) else None
            if isinstance(inner, dict) and isinstance(inner.get("resourceType"), str):
                yield f"{where}#{number}", str(entry.get("fullUrl", "")), inner
            else:
                findings.append(Finding(f"{where}#{number}", "quarantined", "not-fhir", "the entry holds no FHIR resource"))


def _take(where: str, full_url: str, resource: dict[str, Any], found: _Found, findings: list[Finding], identifier: str | None) -> None:
    kind = resource["resourceType"]
    states = [resource.get("status"), *(c.get("code") for c in resource.get("verificationStatus", {}).get("coding", []))]
    if kind == "Patient":
        key = _patient_key(resource, identifier)
        found.keys.update({reference: key for reference in (full_url, f"Patient/{resource.get('id')}") if reference})
        found.people[key] = resource
    elif kind not in ("Observation", "Condition", "DiagnosticReport"):
        found.others += 1
    elif _UNTRUE & {str(state) for state in states}:
        findings.append(Finding(where, "ignored", "untrue", "the resource says that it was entered in error, cancelled or refuted"))
    elif not isinstance(subject := resource.get("subject", {}).get("reference"), str) or not subject:
        findings.append(Finding(where, "quarantined", "no-patient-key", "the resource names no patient"))
    elif kind == "Observation":
        _observe(where, subject, resource, found, findings)
    elif kind == "Condition":
        for coding in resource.get("code", {}).get("coding", []):
            column = CODE_SYSTEMS.get(coding.get("system", ""))
            if column is not None and coding.get("code"):
                found.texts.append((column, subject, str(coding["code"])))
    elif resource.get("conclusion"):
        found.texts.append((REPORT, subject, str(resource["conclusion"])))


def _observe(where: str, subject: str, resource: dict[str, Any], found: _Found, findings: list[Finding]) -> None:
    """The value of an observation and of its components (a blood pressure has two)."""
    when = resource.get("effectiveDateTime") or resource.get("effectivePeriod", {}).get("start") or resource.get("effectiveInstant") or ""
    for part in (resource, *resource.get("component", [])):
        value = _value(part)
        if value is None:
            continue  # a panel has components only; dataAbsentReason is a missing value
        column = _column(part.get("code", {}).get("coding", []))
        if column is None:
            findings.append(Finding(where, "ignored", "no-code", "the observation has no code"))
        else:
            found.readings.append(_Reading(subject, str(when)[:10], column, *value, where))


def _value(part: dict[str, Any]) -> tuple[str, str | None] | None:
    if "valueQuantity" in part:
        quantity = part["valueQuantity"]
        if "value" not in quantity:
            return None
        return f"{quantity.get('comparator', '')}{quantity['value']}", str(quantity.get("code") or quantity.get("unit") or "")
    if "valueCodeableConcept" in part:
        concept = part["valueCodeableConcept"]
        coding = (concept.get("coding") or [{}])[0]
        text = coding.get("display") or concept.get("text") or coding.get("code")
        return None if not text else (str(text), None)
    if "valueBoolean" in part:
        return "yes" if part["valueBoolean"] else "no", None
    plain = part.get("valueInteger", part.get("valueString"))
    return None if plain is None else (str(plain), None)


def _column(codings: list[dict[str, Any]]) -> str | None:
    """Its name for a known LOINC code, else 'loinc_12345-6', else the first code of whatever system."""
    loinc = [str(c["code"]) for c in codings if c.get("system") == "http://loinc.org" and c.get("code")]
    known = next((LOINC[code] for code in loinc if code in LOINC), None)
    if known or loinc:
        return known or f"loinc_{loinc[0]}"
    return next((f"code_{c['code']}" for c in codings if c.get("code")), None)


def _patient_key(patient: dict[str, Any], identifier: str | None) -> str:
    named = [i for i in patient.get("identifier", []) if i.get("value")]
    if identifier == "id":
        named = []
    elif identifier is not None:
        named = [i for i in named if i.get("system") == identifier]
    else:
        named.sort(key=lambda i: all(c.get("code") != "MR" for c in i.get("type", {}).get("coding", [])))  # stable: MR first
    return str(named[0]["value"] if named else patient["id"])


def _records(name: str, files: dict[str, str], found: _Found, findings: list[Finding]) -> Records:
    """One row a patient and day, or more where a day has two values of one code; patients without an observation have one row."""
    units = _units(found)
    rows: dict[tuple[str, str], list[dict[str, str]]] = {}
    for reading in found.readings:
        text = _converted(reading, units, findings)
        if text is not None:
            days = rows.setdefault((found.key(reading.subject), reading.date), [{}])
            if reading.column in days[-1]:
                days.append({})
            days[-1][reading.column] = text
    texts: dict[str, dict[str, list[str]]] = {column: {} for column in (*CODE_SYSTEMS.values(), REPORT)}
    for column, subject, text in found.texts:
        texts[column].setdefault(found.key(subject), []).append(text)
    seen = {patient for patient, _ in rows}
    rows.update({(p, ""): [{}] for p in (*found.people, *(p for some in texts.values() for p in some)) if p not in seen})
    if not rows:
        raise IngestError(f"'{name}' holds no FHIR resource of a patient; give Patient, Observation and Condition resources")
    firsts: dict[str, str] = {}
    for patient, date in sorted(rows):
        if date:
            firsts.setdefault(patient, date)
    columns = sorted(units)
    headers = [f"{column} [{units[column]}]" if units.get(column) else column for column in columns]
    lines = []
    for (patient, date), days in sorted(rows.items()):
        person = found.people.get(patient, {})
        static = [patient, date, str(person.get("gender", "")), _age(str(person.get("birthDate", "")), firsts.get(patient, ""))]
        lines += [[*static, *(day.get(column, "") for column in columns)] for day in days]
    return Records(name, [PATIENT, DATE, "sex", "age [years]", *headers], lines, files, findings, texts)


def _units(found: _Found) -> dict[str, str]:
    """The unit of each column, blank for one without: of a known analyte its own, else the one that most patients' values have.

    A code or unit that hepdist doesn't know and one patient alone has is no column: it could be anything, and identify them.
    """
    patients: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for reading in found.readings:
        patients[reading.column][reading.unit or ""].add(found.key(reading.subject))
    units = {}
    for column, by_unit in patients.items():
        analyte, unit = analyte_of(column), max(by_unit, key=lambda u: (len(by_unit[u]), u))
        if analyte is not None or column in UNITS:
            units[column] = analyte.unit if analyte is not None else UNITS[column]
        elif len(by_unit[unit]) > 1 or (not unit and column in LOINC.values()):
            units[column] = unit
    return units


def _converted(reading: _Reading, units: dict[str, str], findings: list[Finding]) -> str | None:
    """The value in its column's unit, '<' kept; None, with a finding, where that is impossible."""
    if reading.column not in units:
        findings.append(Finding(reading.where, "ignored", "rare-code", "one patient alone has values of its code and unit"))
        return None
    if reading.unit is None:
        return reading.text
    times = factor(reading.unit, units[reading.column], analyte_of(reading.column))
    if times is None:
        findings.append(Finding(reading.where, "quarantined", "unit", "its unit can't be converted to that of its column"))
        return None
    digits = reading.text.lstrip("<>=")
    value = number(digits)
    return reading.text if times == 1.0 or value is None else f"{reading.text.removesuffix(digits)}{value * times!r}"


def _age(birth: str, day: str) -> str:
    """Years, to a tenth; of a birth year or month alone, from its middle."""
    try:
        born = datetime.date.fromisoformat({4: f"{birth}-07-01", 7: f"{birth}-15"}.get(len(birth), birth))
        years = (datetime.date.fromisoformat(day) - born).days / 365.25
    except ValueError:
        return ""
    return f"{min(years, OLDEST):.1f}" if years >= 0 else ""
