"""The options of `hepdist surveil`, typed and checked; each is given as key=value, and a table with the usual column names needs none."""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import PositiveFloat, PositiveInt, field_validator, model_validator

from hepdist.spec import Spec, parse_pairs

Method = Literal["farrington", "cusum", "ears_c1", "ears_c2", "ears_c3"]
Share = Annotated[float, Gt(0), Le(1)]
SMALLEST_K = 4
"""Of small cells, where any are hidden: below it what is known of hidden cells can leave one possible value (suppress.py)."""


class SurveilSpec(Spec):
    date: str = "date"
    """Column with the day (2024-05-31, 2024/5/31, 20240531, a time after it is ignored) or the ISO week (2024-W22)."""
    date_format: str = ""
    """How other dates are written, in strptime's letters, such as %d/%m/%Y; empty: the forms above alone, since 3/4/2024 is two days."""
    site: str = "site"
    """Column with the hospital, laboratory or district; empty: all rows are of one site."""
    case: str = ""
    """Column that says whether the row is a case; empty: 'case', where the table has it."""
    positive: tuple[str, ...] = ()
    """Values of `case` that mean a case, all others meaning none; empty: 1, true, yes, positive against 0, false, no, negative."""
    probability: str = ""
    """Column with the model's probability, a case from `threshold` on; empty: 'probability', where the table has it and has no case."""
    threshold: Annotated[float, Gt(0), Lt(1)] | None = None
    """Probability from which a row is a case; None: the run's own, which needs `run`."""
    count: str = ""
    """Column with the number of cases of a row that stands for many; empty: 'count', where the table has it."""
    tested: str = ""
    """Column with the number tested, of whom `count` are cases; empty: 'tested', where the table has it. Rows of persons are tested persons."""
    patient: str = ""
    """Column that names the patient, for leaving out repeated visits; empty: 'patient', where the table has it. It is never written."""
    same_case_days: Annotated[int, Ge(0)] = 30
    """Days in which a patient's further visits are the same case (or, without a case, the same test); 0: every row counts."""
    since: datetime.date | None = None
    """Earliest day; rows before it are quarantined. None: 20 years before `until`, since a typo in a year makes years of zeros."""
    until: datetime.date | None = None
    """Last day that the table is whole for: rows after it are quarantined, weeks that end after it are shown but not judged.
    None: the last day in the table for rows of persons, yesterday for counts; never later than today."""

    run: str = ""
    """Folder of the hepdist run that made the predictions: its threshold, sensitivity and specificity with their sample sizes."""
    run_split: str = "test"
    """Split of the run whose scores are taken."""
    sensitivity: Share | None = None
    """Of the classifier, at the threshold that made the cases; with specificity, corrects prevalence (Rogan and Gladen, 1978)."""
    specificity: Share | None = None
    sensitivity_n: PositiveInt | None = None
    """Cases that the sensitivity was estimated from; None: it is taken as known, and the interval is too narrow where it is not."""
    specificity_n: PositiveInt | None = None
    """The same for non-cases."""

    method: Literal["auto"] | Method = "auto"
    """auto: by weeks of history before the judged week (judge.py): Farrington flexible from 3 years on, CUSUM from half a year on,
    EARS C2 from 9 weeks on, else none."""
    alpha: Annotated[float, Gt(0), Lt(0.5)] = 0.005
    """Farrington: chance that a week without an outbreak exceeds its threshold; 0.005 as Noufaily et al. (2013) use it."""
    quantile: Literal["negative_binomial", "two_thirds"] = "negative_binomial"
    """Farrington: threshold as a quantile of the negative binomial (Noufaily et al., 2013), or by the 2/3 power (Farrington et al., 1996)."""
    years: Annotated[int, Ge(3), Le(10)] = 5
    """Farrington: years of baseline, where there are as many."""
    half_window: Annotated[int, Ge(1), Le(6)] = 3
    """Farrington: weeks each side of the same week in earlier years that share its season."""
    leave_out_weeks: Annotated[int, Ge(0), Le(51)] = 26
    """Farrington: newest weeks kept out of the baseline, since an outbreak that goes on would raise its own threshold."""
    outlier: PositiveFloat = 2.58
    """Farrington: standardised residual above which a past week weighs less; the classic method had 1."""
    least_reports: Annotated[int, Ge(0)] = 5
    """Farrington: no alert with fewer reports in the last four weeks than this, the week itself included."""
    least_sd: PositiveFloat = 0.5
    """EARS: the baseline's standard deviation counts as at least this; else one case after seven weeks of none is an infinite deviation."""
    cusum_k: PositiveFloat = 1.04
    """CUSUM: reference value, half the shift (in standard deviations) to be found; with h, an alert in about 500 quiet weeks (Rossi et al., 1999)."""
    cusum_h: PositiveFloat = 2.26
    """CUSUM: limit of the sum."""
    false_discovery: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Over the sites of one week, an alert also needs a p-value that Benjamini and Hochberg (1995) pass at this rate, such as 0.1;
    0: off. Methods without a p-value (C3, CUSUM) keep their own limit."""

    judge_weeks: PositiveInt = 52
    """Newest whole weeks that are judged."""
    show_weeks: PositiveInt = 156
    """Weeks that plots go back."""
    small_cell: Annotated[int, Ge(1)] = 5
    """Counts from 1 to this minus one are hidden in every output, and what would give them away; 1: nothing is hidden."""

    @field_validator("since", "until", mode="before")
    @classmethod
    def _day(cls, value: Any) -> Any:
        if isinstance(value, str):
            try:
                return datetime.date.fromisoformat(value)
            except ValueError:
                raise ValueError("give a day as 2024-05-31") from None
        return value

    @field_validator("positive", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

    @field_validator("small_cell")
    @classmethod
    def _safe(cls, value: int) -> int:
        if 1 < value < SMALLEST_K:
            raise ValueError(
                f"hiding needs at least {SMALLEST_K}, since a smaller limit leaves hidden counts one possible value; 1 hides nothing"
            )
        return value

    @model_validator(mode="after")
    def _together(self) -> SurveilSpec:
        if not self.date:
            raise ValueError("date must name a column")
        if sum(map(bool, (self.case, self.probability, self.count))) > 1:
            raise ValueError("give one of case, probability and count, not several")
        if self.positive and (self.probability or self.count):
            raise ValueError("positive lists values of a case column; leave it out with probability or count")
        if self.count and self.patient:
            raise ValueError("rows of counts have no patients to recognise; leave out patient or count")
        if self.patient and self.patient in (self.site, self.date, self.case, self.probability):
            raise ValueError(f"column '{self.patient}' can't be the patient and something that is written; name another column")
        if (self.sensitivity is None) != (self.specificity is None):
            raise ValueError("sensitivity and specificity correct a prevalence only together; give both or neither")
        if self.sensitivity is not None and self.run:
            raise ValueError("sensitivity is given and run would give it too; leave one out")
        if self.sensitivity is None and (self.sensitivity_n or self.specificity_n):
            raise ValueError("sensitivity_n and specificity_n are sample sizes of sensitivity and specificity; give those too")
        if self.sensitivity is not None and self.specificity is not None and self.sensitivity + self.specificity <= 1:
            raise ValueError("sensitivity + specificity must exceed 1, else a positive result says nothing")
        if self.since and self.until and self.since >= self.until:
            raise ValueError("since must be before until")
        return self


def parse_options(options: list[str]) -> SurveilSpec:
    """`key=value` strings as a checked spec; raises RecipeError with one sentence that names the key and the fix."""
    spec: SurveilSpec = parse_pairs(SurveilSpec, options, "surveil")
    return spec
