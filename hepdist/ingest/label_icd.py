"""ICD-10 and ICD-9 codes: how a cell's text becomes codes, and the declared sets and ranges that hold them; no disease is named here."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

System = Literal["icd10", "icd9"]

# ICD-10: a letter, two characters, then up to four more (ICD-10-CM) or seven (China's clinical edition: B18.100x005).
# ICD-9-CM: three digits, V and two or E and three, then up to two more; a leading zero is often lost before a dot (70.3).
_SHAPES = {
    "icd10": re.compile(r"([A-Z]\d[0-9A-Z])\.?([0-9A-Z]{0,7})"),
    "icd9": re.compile(r"(\d{3}|V\d\d|E\d{3})\.?(\d{0,2})|(\d{1,2})\.(\d{1,2})"),
}
_BETWEEN = re.compile(r"[\s,;|/+、。]+")


def plain_code(text: str, system: System) -> str | None:
    """A code without its dot, in capitals and with ICD-9's leading zeros, such as 'B181' or '0703'; None where it is none.

    Codes are compared in this form: each character more is a level deeper in the classification.
    """
    match = _SHAPES[system].fullmatch(unicodedata.normalize("NFKC", text).upper())
    if match is None:
        return None
    stem, rest, *padded = match.groups()
    return stem + rest if stem else padded[0].zfill(3) + padded[1]


def codes_in(cell: str, system: System) -> list[str]:
    """The codes that a cell holds, plain, in order: separated by spaces, commas, semicolons and the like, with or without a
    description beside them ('B18.1 chronic hepatitis B'), dagger, asterisk, quotes or brackets."""
    parts = _BETWEEN.split(unicodedata.normalize("NFKC", cell))
    codes = (plain_code(part.strip("()[]{}<>'\".:*†‡"), system) for part in parts)
    return [code for code in codes if code is not None]


@dataclass(frozen=True)
class CodeSet:
    """A code with all below it ('K75', 'B18.1'), or a range of such ('B15-B19', both ends with all below them)."""

    name: str
    """As declared; it is the rule's id in the evidence."""
    first: str
    last: str

    @classmethod
    def parse(cls, name: str, system: System) -> CodeSet:
        """Raises ValueError with the reason where `name` is no code or range of `system`."""
        ends = [plain_code(end.strip(), system) for end in name.split("-")]
        kind = "ICD-10" if system == "icd10" else "ICD-9"
        example = "'K75' or 'B15-B19'" if system == "icd10" else "'571.42' or '070.2-070.3'"
        if len(ends) > 2 or any(end is None for end in ends):
            raise ValueError(f"'{name}' is no {kind} code or range, such as {example}")
        first, last = str(ends[0]), str(ends[-1])
        if first[: len(last)] > last or last[: len(first)] < first:
            raise ValueError(f"range '{name}' ends before it begins; write it as {last}-{first}")
        return cls(name, first, last)

    def holds(self, code: str) -> bool:
        """Whether a plain code lies in the set."""
        return self.first <= code and code[: len(self.last)] <= self.last

    @property
    def depth(self) -> int:
        """Characters that the set fixes: of two sets that hold a code, the deeper one says more."""
        return min(len(self.first), len(self.last))


def deepest(sets: Iterable[CodeSet], code: str) -> list[CodeSet]:
    """Those of the sets that hold the code and lie deepest: K75.81 is in K75.81, not in K75, where both are declared."""
    holding = [s for s in sets if s.holds(code)]
    depth = max((s.depth for s in holding), default=0)
    return [s for s in holding if s.depth == depth]
