"""Which names of structures may leave ingest: DICOM's own coded terms, and words made of them; free text could name a person."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import Any

from pydicom.sr.codedict import codes

CONTEXTS = (2, 4, 4031, 7150, 7151, 7159, 7166, 7170, 7171, 7191, 7192, 7194, 7601)
"""PS3.16 context groups whose words are known: laterality, body regions, structures, tissues and lesions. The whole of
DICOM's dictionary would not do: it holds places, animals' breeds and companies, which are people's names too."""
SCHEMES = ("SCT", "DCM")
ROI_TYPES = ("EXTERNAL", "PTV", "CTV", "GTV", "ITV", "ORGAN", "AVOIDANCE", "CONTROL", "BOLUS", "CAVITY", "SUPPORT")
"""RT ROI Interpreted Types (PS3.3 C.8.8.8.1) that stand for a region: what a structure set's contour is, where its name may not be told."""
EVERYDAY = frozenset(
    (
        "and",
        "roi",
        "mask",
        "seg",
        "segment",
        "label",
        "segmentation",
        "structure",
        "organ",
        "region",
        "tumor",
        "tumour",
        "mets",
        "whole",
        "total",
    )
)
"""Words of folder names that the context groups lack."""
LONGEST = 40


def class_of(names: Iterable[str], declared: tuple[str, ...]) -> str | None:
    """The class that a structure with these names, best first, belongs to; None: it may not be told, or wasn't asked for.

    With declared classes (background first) the one that is equal but for case, blanks and signs; else the first safe name.
    """
    if declared:
        by_letters = {_letters(name): name for name in declared[1:]}
        return next((by_letters[_letters(name)] for name in names if _letters(name) in by_letters), None)
    return next((name for name in names if is_safe(name)), None)


@lru_cache(4096)
def is_safe(name: str) -> bool:
    """Whether a name is made of DICOM's anatomical terms alone, run together or not, with numbers of at most two digits."""
    words = re.findall(r"[A-Za-z]+|\d+", name)
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9 _.,()/-]*", name) or len(name) > LONGEST:
        return False
    return all(len(w) <= 2 if w.isdecimal() else w.upper() in ROI_TYPES or _made_of_terms(w.lower()) for w in words)


def coded_meaning(code: Any) -> str:
    """What the standard's dictionary says of a coded item, which the file's own Code Meaning need not; empty where it has no such code."""
    scheme, value = str(code.get("CodingSchemeDesignator") or ""), str(code.get("CodeValue") or "")
    return _meanings().get((scheme, value), "")


@cache
def _meanings() -> dict[tuple[str, str], str]:
    found: dict[tuple[str, str], str] = {}
    for scheme in SCHEMES:
        for code in getattr(codes, scheme).concepts.values():
            found.setdefault((scheme, code.value), code.meaning)  # of synonyms ('Neoplasm', 'Tumor') always the same one
    return found


@cache
def _words() -> frozenset[str]:
    groups = [getattr(codes, f"cid{number}") for number in CONTEXTS]
    meanings = [code.meaning for group in groups for code in group.concepts.values()]
    return frozenset(word for meaning in meanings for word in re.findall(r"[a-z]{3,}", meaning.lower())) | EVERYDAY


@lru_cache(4096)
def _made_of_terms(word: str) -> bool:
    if word in _words() or word.removesuffix("s") in _words():
        return True
    # run together, as in 'livertumor': short words would let names through
    return any(word[:cut] in _words() and _made_of_terms(word[cut:]) for cut in range(4, len(word) - 3))


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()
