"""From follow-up to labels: does the declared event happen within a horizon, seen from a landmark, by what was known until then?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hepdist.errors import IngestError
from hepdist.ingest.emr_sequence import Visits, read_days
from hepdist.ingest.sample import Finding

if TYPE_CHECKING:
    from hepdist.ingest.emr import EMRTable
    from hepdist.ingest.spec import IngestSpec

CLASSES = ("no event", "event")
CALENDAR = 200_000.0
"""Days above this are dates, counted from the year 1; a follow-up of 500 years is none."""
FollowUp = tuple[float, bool]
"""Days from the first visit to the event or to the end of the follow-up, and whether the event ended it."""


@dataclass(frozen=True)
class Horizon:
    """The rule, as the options declare it."""

    event: str
    """Column that says how the follow-up ended."""
    values: frozenset[str]
    """Its texts that are the event; every other is an end without it (censored)."""
    time: str
    """Column with the day or date on which it ended."""
    days: float
    landmarks: tuple[float, ...]
    """Days after the first visit from which it is asked; empty: each visit of the patient."""
    classes: tuple[str, str]

    @classmethod
    def of(cls, spec: IngestSpec) -> Horizon | None:
        if spec.event is None or spec.event_time is None or spec.horizon is None:
            return None
        no, yes = spec.label_names or CLASSES
        landmarks = () if spec.landmark == ("visits",) else tuple(float(day) for day in spec.landmark)
        return cls(spec.event, frozenset(spec.event_values), spec.event_time, spec.horizon, landmarks, (no, yes))

    def label(self, followup: FollowUp | None, landmark: float) -> str | None:
        """The class at a landmark; None where the follow-up ends before the horizon without the event, so that nobody knows."""
        if followup is None:
            return None
        days, event = followup
        if event and days - landmark <= self.days:
            return self.classes[1]
        return self.classes[0] if days - landmark >= self.days else None


def at_landmarks(table: EMRTable, name: str, rule: Horizon, several: bool) -> EMRTable:
    """The table with a row for each patient and landmark: the visits until then, and the label that the follow-up after it gives.

    table: read with the rule's columns among its texts. name: of the table in findings. several: whether a patient may have several
    rows; then their keys are not the patients' and `EMRTable.patients` says whose they are. Whose follow-up has ended at a landmark
    is not at risk any more and has no row there. Columns that never change count as known from the start. Raises IngestError where
    the columns can't be used.
    """
    if len(rule.landmarks) != 1 and not several:
        raise IngestError("ingest key 'landmark' asks for several rows a patient, but images have one; give one day, such as landmark=0")
    if any(rule.landmarks) and not table.sequences:
        raise IngestError("ingest key 'landmark' counts from the first visit, but the table has no visits; leave it at 0")
    followups = dict(_followups(table, name, rule))
    own_key = len(rule.landmarks) == 1
    found = replace(table, rows={}, sequences={}, labels={}, label_names=rule.classes, numbers={}, patients={}, followups={})
    findings = list(table.findings)
    for patient, row in table.rows.items():
        followup, visits = followups.get(patient), table.sequences.get(patient)
        landmarks = rule.landmarks or (tuple(visits.days.tolist()) if visits is not None else (0.0,))
        at_risk = [day for day in landmarks if followup is None or followup[0] > day]
        unknown = 0
        for number, landmark in enumerate(at_risk):
            key = patient if own_key else f"{patient}@{number}"
            found.rows[key], found.numbers[key] = row, table.numbers[patient]
            if not own_key:
                found.patients[key] = patient
            if visits is not None:
                found.sequences[key] = _until(visits, landmark)
            if followup is not None:
                found.followups[key] = (followup[0] - landmark, followup[1])
            label = rule.label(followup, landmark)
            unknown += label is None
            if label is not None:
                found.labels[key] = label
        where = f"{name}#{table.numbers[patient]}"
        if len(at_risk) < len(landmarks):
            findings.append(Finding(where, "ignored", "not-at-risk", "the follow-up has ended before a landmark, which gets no row"))
        if unknown and followup is not None:
            reason = "the follow-up ends without the event before the horizon does; what nobody can know is left unlabelled"
            findings.append(Finding(where, "ignored", "censored", reason))
    if not found.labels:
        raise IngestError(
            f"no follow-up reaches the horizon of {rule.days:g} days or the event before it; check event_time={rule.time} and horizon="
        )
    return replace(found, findings=findings)


def label_rule(spec: IngestSpec) -> dict[str, Any]:
    """The rule as the manifest tells it, without the names of columns; empty where labels come from elsewhere."""
    rule = Horizon.of(spec)
    return {} if rule is None else {"horizon_days": rule.days, "landmarks": list(rule.landmarks) or "visits"}


def _followups(table: EMRTable, name: str, rule: Horizon) -> Iterator[tuple[str, FollowUp]]:
    """Of each patient whose rows agree on one; the table's findings say of the others why not."""
    texts = {patient: [set(table.texts.get(patient, {}).get(column, ())) for column in (rule.event, rule.time)] for patient in table.rows}
    seen = {text for ends, _ in texts.values() for text in ends}
    if absent := rule.values - seen:
        raise IngestError(
            f"ingest key 'event_values' holds {len(absent)} of {len(rule.values)} values that column '{rule.event}' never does"
        )
    days = _days(sorted({text for _, times in texts.values() for text in times}), table, rule)
    for patient, (ends, times) in texts.items():
        number = table.numbers[patient]
        where = f"{name}#{number}"
        if len(ends) > 1 or len(times) > 1:
            reason = f"rows of the patient of row {number} give different ends of follow-up; left unlabelled"
            table.findings.append(Finding(where, "ignored", "label-conflict", reason))
        elif ends and times:
            day = days[next(iter(times))]
            start = table.starts.get(patient, 0.0)
            after = None if day is None else day - start if (day > CALENDAR) == (start > CALENDAR) else day
            if after is None or after < 0:
                reason = f"row {number}: the end of follow-up is no day, or one before the first visit; left unlabelled"
                table.findings.append(Finding(where, "ignored", "label-unknown", reason))
            else:
                yield patient, (after, ends <= rule.values)


def _days(texts: Sequence[str], table: EMRTable, rule: Horizon) -> dict[str, float | None]:
    """Each text of the time column as a day. Raises IngestError where they are none, or dates without visits that have dates."""
    days = read_days(texts)
    if days is None:
        raise IngestError(f"column '{rule.time}' can't be read as days or dates; write day numbers or dates as 2020-01-31")
    dated = any(start > CALENDAR for start in table.starts.values())
    if not dated and any(day is not None and day > CALENDAR for day in days):
        raise IngestError(
            f"column '{rule.time}' holds dates, but visits don't; give days since the first visit, or emr_time=COLUMN of dates"
        )
    return dict(zip(texts, days, strict=True))


def _until(visits: Visits, landmark: float) -> Visits:
    """Those of the landmark's day and before."""
    known = np.floor(visits.days) <= landmark
    return Visits(visits.days[known], visits.values[known], visits.missing[known])
