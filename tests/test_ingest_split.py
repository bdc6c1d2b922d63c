"""Who is one person, and which split each is in: whatever the records and their order, nobody is in two, and nobody who is in one moves."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from salts import SALT

from hepdist.errors import IngestError
from hepdist.ingest.likeness import likeness_of
from hepdist.ingest.pseudonym import Pseudonyms
from hepdist.ingest.split import decide, largest_remainder
from hepdist.ingest.unite import Record, united
from hepdist.shards.manifest import SPLITS

NAMES = Pseudonyms(SALT.encode())
RATIO = (6, 2, 2)

records = st.lists(
    st.builds(
        Record,
        person=st.integers(0, 30).map(lambda n: f"p{n:02d}"),
        content=st.integers(0, 40).map(lambda n: f"c{n}" if n else ""),
        label=st.sampled_from(["", "a", "b", "c"]),
        site=st.integers(0, 12).map(lambda n: f"s{n:02d}"),
        day=st.one_of(st.none(), st.integers(737000, 737100)),
    ),
    min_size=1,
    max_size=80,
)
people = st.lists(st.tuples(st.sampled_from(["", "a", "b", "c"]), st.integers(1, 3)), min_size=1, max_size=120)


def split_of(rows: list[Record], **options) -> dict[str, str]:
    decision = decide(rows, RATIO, NAMES, **options)
    return {person: decision.splits[leader] for person, leader in decision.leaders.items()}


def of_people(labels: list[tuple[str, int]], start: int = 0) -> list[Record]:
    return [Record(f"p{start + i:04d}", label=label) for i, (label, rows) in enumerate(labels) for _ in range(rows)]


@settings(max_examples=60, deadline=None)
@given(records)
def test_nobody_and_no_image_is_in_two_splits(rows):
    for by in ("patient", "date"):
        if by == "date" and all(r.day is None for r in rows):
            continue
        where = split_of(rows, by=by)
        assert where.keys() == {r.person for r in rows}
        splits = defaultdict(set)
        for row in rows:
            splits[row.content].add(where[row.person])
        assert all(len(found) == 1 for content, found in splits.items() if content)


@settings(max_examples=60, deadline=None)
@given(people)
def test_totals_are_within_one_person_of_the_ratio(labels):
    counts = Counter(split_of(of_people(labels)).values())
    for part, split in zip(RATIO, SPLITS, strict=True):
        assert abs(counts[split] - len(labels) * part / sum(RATIO)) < 1 + 1e-9


@settings(max_examples=60, deadline=None)
@given(records, st.randoms(use_true_random=False))
def test_the_order_of_the_records_decides_nothing(rows, random):
    shuffled = list(rows)
    random.shuffle(shuffled)
    for by in ("patient", "date"):
        if by == "patient" or any(r.day is not None for r in rows):
            assert split_of(rows, by=by) == split_of(shuffled, by=by)


@settings(max_examples=60, deadline=None)
@given(people, people, st.sampled_from(["patient", "date"]))
def test_adding_persons_never_moves_old_ones_and_keeps_the_ratio(old, new, by):
    dated = [dataclasses.replace(r, day=737000 + i) for i, r in enumerate(of_people(old) + of_people(new, start=len(old)))]
    first = [r for r in dated if int(r.person[1:]) < len(old)]
    before = split_of(first, by=by)
    grown = [dataclasses.replace(r, kept=before.get(r.person, "")) for r in dated]
    after = split_of(grown, by=by)
    assert {person: after[person] for person in before} == before
    if by == "patient":
        counts = Counter(after.values())
        total = len(old) + len(new)
        assert all(abs(counts[s] - total * part / 10) < 2.5 for part, s in zip(RATIO, SPLITS, strict=True))


@pytest.mark.parametrize(("patients", "expected"), [(220, (132, 44, 44)), (11, (7, 2, 2)), (10, (6, 2, 2)), (3, (2, 1, 0)), (1, (1, 0, 0))])
def test_shares_of_patients_are_exact(patients, expected):
    counts = Counter(split_of([Record(f"p{i}") for i in range(patients)]).values())
    assert tuple(counts[split] for split in SPLITS) == expected


def test_every_class_is_dealt_in_the_same_shares_and_the_total_stays_exact():
    label = {f"p{i:03d}": "abbcccddddddd"[i % 13] for i in range(400)}
    decision = decide([Record(p, label=name) for p, name in label.items()], RATIO, NAMES)
    assert decision.rule["stratified"] is True
    assert Counter(decision.splits.values()) == {"train": 240, "val": 80, "test": 80}
    for name, total in Counter(label.values()).items():
        dealt = Counter(split for p, split in decision.splits.items() if label[p] == name)
        for part, split in zip(RATIO, SPLITS, strict=True):
            assert abs(dealt[split] - total * part / 10) <= 1


def test_chains_of_identical_images_unite_all_their_patients_and_images_of_one_value_nobody():
    rows = [Record("a", "x"), Record("b", "x"), Record("c", "y"), Record("b", "y"), Record("d", ""), Record("e", "")]
    assert united(rows) == {"a": "a", "b": "a", "c": "a", "d": "d", "e": "e"}


def test_largest_remainder_sums_to_the_total_even_with_a_debt():
    assert largest_remainder([0.6, 0.2, 0.2], 1) == [1, 0, 0]
    assert largest_remainder([1.8, 0.6, 0.6], 3) == [2, 1, 0]
    assert largest_remainder([2.2, -0.4, 0.2], 2) == [2, 0, 0]


def test_a_new_image_that_joins_two_old_splits_goes_and_the_old_ones_stay():
    rows = [
        Record("a", "x", kept="train"),
        Record("b", "y", kept="test"),
        Record("c", "x"),
        Record("c", "y"),
        Record("d", "z"),
        Record("a", "w"),
    ]
    decision = decide(rows, RATIO, NAMES)
    assert decision.outside == {2: "test", 3: "test", 5: "test"}
    assert decision.splits["a"] == "train"
    assert decision.splits["b"] == "test"
    assert decision.leaders == {"a": "a", "b": "b", "d": "d"}


def test_a_new_patient_who_shares_an_image_with_an_old_one_joins_its_split():
    rows = [Record(f"p{i}", f"c{i}", kept=SPLITS[i % 3]) for i in range(9)] + [Record("new", "c2")]
    decision = decide(rows, RATIO, NAMES)
    assert decision.splits[decision.leaders["new"]] == "test"
    assert decision.outside == {}


def test_official_splits_are_kept_and_the_less_important_copy_goes():
    rows = [
        Record("p1", "a", official="train"),
        Record("p2", "a", official="test"),
        Record("p3", "b", official="val"),
        Record("p4", "c", official="train"),
    ]
    decision = decide(rows, RATIO, NAMES)
    assert decision.outside == {0: "test"}
    assert {p: decision.splits[decision.leaders[p]] for p in ("p2", "p3", "p4")} == {"p2": "test", "p3": "val", "p4": "train"}
    assert decision.rule["kind"] == "official"


def test_an_official_split_without_val_takes_it_from_train_alone():
    rows = [Record(f"p{i:02d}", f"c{i}", official="test" if i < 10 else "train") for i in range(50)]
    decision = decide(rows, RATIO, NAMES)
    assert Counter(decision.splits.values()) == {"train": 30, "val": 10, "test": 10}
    assert all(decision.splits[f"p{i:02d}"] == "test" for i in range(10))
    assert decision.rule["val"] == "from train"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=3, max_size=7))
def test_whole_sites_go_to_one_split_as_near_the_ratio_as_any_way_would(sizes):
    rows = [Record(f"p{site}-{i}", site=f"s{site}") for site, size in enumerate(sizes) for i in range(size)]
    where = split_of(rows, by="site")
    of_site = defaultdict(set)
    for row in rows:
        of_site[row.site].add(where[row.person])
    assert all(len(found) == 1 for found in of_site.values())
    wanted = [sum(sizes) * part / 10 for part in RATIO]

    def cost(ways) -> float:
        return sum((sum(n for n, s in zip(sizes, ways, strict=True) if s == split) - wanted[split]) ** 2 for split in range(3))

    best = min(cost(ways) for ways in itertools.product(range(3), repeat=len(sizes)) if len(set(ways)) == 3)
    found = [SPLITS.index(next(iter(of_site[f"s{site}"]))) for site in range(len(sizes))]
    assert set(found) == {0, 1, 2}
    assert cost(found) == pytest.approx(best)


def test_forty_sites_fill_the_splits_to_a_few_patients():
    rng = np.random.default_rng(0)
    rows = [Record(f"p{site}-{i}", site=f"s{site:02d}") for site in range(40) for i in range(rng.integers(1, 50))]
    counts = Counter(split_of(rows, by="site").values())
    for part, split in zip(RATIO, SPLITS, strict=True):
        assert abs(counts[split] - len(rows) * part / 10) <= 5
    assert split_of(rows[::-1], by="site") == split_of(rows, by="site")


def test_sites_that_share_a_patient_count_as_one_and_too_few_are_refused():
    rows = [Record("a", site="s1"), Record("a", site="s2"), Record("b", site="s2"), Record("c", site="s3"), Record("d", site="s4")]
    where = split_of(rows, by="site")
    assert where["a"] == where["b"]
    assert len({where["a"], where["c"], where["d"]}) == 3
    with pytest.raises(IngestError, match="2 groups of sites that share no patient can't fill 3 splits"):
        decide(rows[:4], RATIO, NAMES, by="site")
    with pytest.raises(IngestError, match="name no site to split by; name its column with site_key=COLUMN"):
        decide([*rows, Record("e")], RATIO, NAMES, by="site")


def test_new_patients_of_a_known_site_join_it():
    rows = [Record(f"p{site}-{i}", site=f"s{site}") for site in range(6) for i in range(10 - site)]
    before = split_of(rows, by="site")
    new = [Record("new", site="s3"), Record("other", site="s9")]
    after = split_of([dataclasses.replace(r, kept=before[r.person]) for r in rows] + new, by="site")
    assert {p: after[p] for p in before} == before
    assert after["new"] == before["p3-0"]


def test_the_oldest_patients_train_and_the_newest_test_by_their_first_study():
    days = {f"p{i:02d}": 737000 + 10 * i for i in range(20)}
    rows = [Record(p, day=day) for p, day in days.items()] + [Record("p00", day=739000), Record("undated")]
    decision = decide(rows, RATIO, NAMES, by="date")
    where = decision.splits
    assert max(days[p] for p in days if where[p] == "train") < min(days[p] for p in days if where[p] == "val")
    assert max(days[p] for p in days if where[p] == "val") < min(days[p] for p in days if where[p] == "test")
    assert where["p00"] == where["undated"] == "train"
    assert decision.rule["undated"] == 1
    with pytest.raises(IngestError, match="no image of the source has a date to split by; name its column with date_key=COLUMN"):
        decide([Record("a")], RATIO, NAMES, by="date")


def test_a_picture_and_its_brighter_copy_make_two_patients_one_unless_that_is_off():
    rng = np.random.default_rng(0)
    image = np.clip(np.cumsum(rng.normal(size=(1, 64, 64)), axis=1) * 10 + 120, 0, 255).astype(np.uint8)
    other = rng.integers(0, 256, (1, 64, 64), dtype=np.uint8)
    rows = [
        Record("b", "1", likeness_of(image)),
        Record("a", "2", likeness_of((image * 0.9).astype(np.uint8))),
        Record("c", "3", likeness_of(other)),
    ]
    assert united(rows) == {"a": "a", "b": "a", "c": "c"}
    assert united(rows, near_identical=False) == {"a": "a", "b": "b", "c": "c"}
