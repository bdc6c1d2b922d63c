"""Scores of a set of predictions, each defined once, over row weights; what to score and the intervals live elsewhere.

Every function takes `weight` float64[resamples, n] and returns float64[resamples] (or [resamples, classes]): a weight of one
everywhere is the plain score, and the number of times a bootstrap drew each row's patient gives the score of that resample. So
a point estimate and its interval can't differ in definition. Undefined scores (one class only, nothing to average) are nan.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hepdist.errors import RunError

Floats = NDArray[np.float64]

CALIBRATION_BINS = 15
"""Bins of the calibration errors, as in Guo et al., 2017."""
LEAST_PROBABILITY = 1e-7
"""Stated probabilities are taken as at least this much from 0 and 1 in logarithms: one sure error would make the mean infinite."""


def classification_scores(
    label: NDArray[np.int64], probability: Floats, weight: Floats, threshold: float = 0.5, *, ordinal: bool = False
) -> dict[str, Floats]:
    """All scores of a classifier of exclusive classes.

    label: int64[n], class index, none missing; probability: float[n, K]; weight: float[resamples, n]; threshold: used for two
    classes only, where class 1 is the positive one and is decided at probability >= threshold; more classes take the largest.
    Two classes: auroc, average_precision, accuracy, balanced_accuracy, sensitivity, specificity, ppv, npv, f1 and `calibration_scores`.
    More: auroc and average_precision are macro averages of one class against the rest over the classes that `label` holds,
    `auroc_per_class` and `sensitivity_per_class` are [resamples, K], and there is no specificity, ppv, npv or f1.
    ordinal: the classes are in order, and `ordinal_scores` of the decisions are added.
    """
    classes = probability.shape[1]
    decision = decide(probability, threshold)
    hit = (decision == label).astype(np.float64)
    recall = np.stack([_share(weight[:, label == k], hit[label == k]) for k in range(classes)], axis=1)
    scores = {"accuracy": _share(weight, hit), "balanced_accuracy": _mean_defined(recall)}
    truth = label[:, None] == np.arange(classes)
    if classes == 2:
        positive = probability[:, 1]
        called = decision == 1
        scores |= {"sensitivity": recall[:, 1], "specificity": recall[:, 0]}
        scores |= {"ppv": _share(weight[:, called], hit[called]), "npv": _share(weight[:, ~called], hit[~called])}
        true_positive, wrong = weight @ (called & truth[:, 1]), weight @ (1 - hit)
        scores["f1"] = _divide(2 * true_positive, 2 * true_positive + wrong)
        scores |= {"auroc": auroc(truth[:, 1], positive, weight), "average_precision": average_precision(truth[:, 1], positive, weight)}
    else:
        held = [k for k in range(classes) if truth[:, k].any()]
        by_class = np.full((len(weight), classes), np.nan)
        for k in held:
            by_class[:, k] = auroc(truth[:, k], probability[:, k], weight)
        precision = np.stack([average_precision(truth[:, k], probability[:, k], weight) for k in held], axis=1)
        scores |= {"auroc": by_class[:, held].mean(axis=1), "average_precision": precision.mean(axis=1)}
        scores |= {"auroc_per_class": by_class, "sensitivity_per_class": recall}
    scores |= calibration_scores(label, probability, weight)
    return scores | (ordinal_scores(label, decision, classes, weight) if ordinal else {})


def calibration_scores(label: NDArray[np.int64], probability: Floats, weight: Floats) -> dict[str, Floats]:
    """How far stated probabilities can be trusted: brier, log_loss, ece and ece_equal_mass; label and probability as those of either task.

    brier: mean squared error; of two classes of the positive one, of more the sum over classes, of findings the mean over them.
    log_loss: cross-entropy in nats, of findings the mean over them, whose calibration errors are means over findings too.
    """
    if label.ndim == 2:
        clipped = probability.clip(LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
        loss = -np.where(label == 1, np.log(clipped), np.log(1 - clipped)).mean(axis=1)
        scores = {"brier": _share(weight, ((probability - label) ** 2).mean(axis=1)), "log_loss": _share(weight, loss)}
        each = [np.stack([1 - p, p], axis=1) for p in probability.T]
        for name, edges in (("ece", equal_width_edges), ("ece_equal_mass", equal_mass_edges)):
            errors = [calibration_error(truth, p, weight, edges(p[:, 1])) for truth, p in zip(label.T, each, strict=True)]
            scores[name] = np.mean(errors, axis=0)
        return scores
    if probability.shape[1] == 2:
        brier = (probability[:, 1] - label) ** 2
    else:
        brier = ((probability - np.eye(probability.shape[1])[label]) ** 2).sum(axis=1)
    stated = stated_and_observed(label, probability)[0]
    return {
        "brier": _share(weight, brier),
        "log_loss": _share(weight, -np.log(probability[np.arange(len(label)), label].clip(LEAST_PROBABILITY))),
        "ece": calibration_error(label, probability, weight, equal_width_edges(stated)),
        "ece_equal_mass": calibration_error(label, probability, weight, equal_mass_edges(stated)),
    }


def ordinal_scores(label: NDArray[np.int64], decision: NDArray[np.int64], classes: int, weight: Floats) -> dict[str, Floats]:
    """Scores of decisions about ordered classes, in which a near miss counts for more than a far one.

    label, decision: int64[n]. quadratic_kappa: 1 - the squared distance of decision and truth over that of chance with the same margins
    (Cohen, 1968), nan where all are of one class and decided so; mae: mean absolute distance, in classes.
    """
    distance = np.abs(label - decision).astype(np.float64)
    each = np.arange(classes)
    true, decided = weight @ (label[:, None] == each), weight @ (decision[:, None] == each)
    chance = np.einsum("ri,ij,rj->r", true, (each[:, None] - each) ** 2.0, decided)
    return {"quadratic_kappa": 1 - _divide((weight @ distance**2) * weight.sum(axis=1), chance), "mae": _share(weight, distance)}


def multilabel_scores(label: NDArray[np.int64], probability: Floats, weight: Floats, threshold: float = 0.5) -> dict[str, Floats]:
    """All scores of a classifier of findings that may occur together; each finding is called at probability >= threshold.

    label: int64[n, K] of 0 and 1; probability: float[n, K]. auroc, average_precision, sensitivity, specificity and balanced_accuracy
    are macro averages over the findings that are both present and absent somewhere in `label`; accuracy is the share of
    (row, finding) pairs that are right; `calibration_scores` are added; `<name>_per_class` are [resamples, K].
    """
    count = probability.shape[1]
    truth, called = label == 1, probability >= threshold
    by_class = {
        "auroc": [auroc(truth[:, k], probability[:, k], weight) for k in range(count)],
        "average_precision": [average_precision(truth[:, k], probability[:, k], weight) for k in range(count)],
        "sensitivity": [_share(weight[:, truth[:, k]], called[truth[:, k], k]) for k in range(count)],
        "specificity": [_share(weight[:, ~truth[:, k]], ~called[~truth[:, k], k]) for k in range(count)],
    }
    held = np.flatnonzero(truth.any(axis=0) & ~truth.all(axis=0))
    per_class = {name: np.stack(columns, axis=1) for name, columns in by_class.items()}
    scores = {name: values[:, held].mean(axis=1) if len(held) else np.full(len(weight), np.nan) for name, values in per_class.items()}
    scores["balanced_accuracy"] = (scores["sensitivity"] + scores["specificity"]) / 2
    scores["accuracy"] = _share(weight, (truth == called).mean(axis=1))
    scores |= calibration_scores(label, probability, weight)
    return scores | {f"{name}_per_class": values for name, values in per_class.items()}


def segmentation_scores(
    dice: Floats, hd95: Floats | None, volume_ml: Floats | None, true_volume_ml: Floats | None, weight: Floats, nsd: Floats | None = None
) -> dict[str, Floats]:
    """All scores of a segmenter, from what was measured on each case.

    dice: float[n, C] by foreground class, nan where truth and prediction are both empty: such cases are left out, since there is
    nothing to overlap. hd95: float[n, C] millimetres, inf where only one of the two is empty. volumes: float[n, C] millilitres. nsd: float[n, C],
    share of both surfaces within the tolerance of the other, 0 where only one of the two is empty.
    `dice` is the mean over classes of `dice_per_class`, the mean over cases; `iou` and `nsd` likewise; `hd95` over finite distances, and
    `hd95_infinite_share` is the share of (case, class) pairs left out of it because one side found nothing;
    `volume_bias_ml_per_class` is the mean of predicted minus true volume, `volume_error_ml_per_class` that of its absolute value.
    """
    there = ~np.isnan(dice)
    per_class = _column_means(dice, there, weight)
    scores = {"dice": _mean_defined(per_class), "dice_per_class": per_class}
    overlap = _column_means(dice / (2 - dice), there, weight)  # of a case both hold the same, of a mean they do not
    scores |= {"iou": _mean_defined(overlap), "iou_per_class": overlap}
    if nsd is not None:
        within = _column_means(nsd, there & ~np.isnan(nsd), weight)
        scores |= {"nsd": _mean_defined(within), "nsd_per_class": within}
    if hd95 is not None:
        measured = there & ~np.isnan(hd95)
        finite = measured & np.isfinite(hd95)
        distances = _column_means(hd95, finite, weight)
        scores |= {"hd95": _mean_defined(distances), "hd95_per_class": distances}
        scores["hd95_infinite_share"] = _divide(weight @ (measured & ~finite).sum(axis=1), weight @ measured.sum(axis=1))
    if volume_ml is not None and true_volume_ml is not None:
        difference = volume_ml - true_volume_ml
        known = ~np.isnan(difference)
        scores["volume_bias_ml_per_class"] = _column_means(difference, known, weight)
        scores["volume_error_ml_per_class"] = _column_means(np.abs(difference), known, weight)
    return scores


def restoration_scores(psnr: Floats, ssim: Floats, psnr_input: Floats, ssim_input: Floats, weight: Floats) -> dict[str, Floats]:
    """All scores of a restoration model: float[n, D] each, by row and degradation; `_input` are those of the degraded images.

    Every score is the mean over degradations of `<name>_per_class`, the mean over rows; `psnr_gain` and `ssim_gain` are restored minus
    degraded, paired by row, so that their intervals say whether a model helps.
    """
    measured = {"psnr": psnr, "ssim": ssim, "psnr_input": psnr_input, "ssim_input": ssim_input}
    measured |= {"psnr_gain": psnr - psnr_input, "ssim_gain": ssim - ssim_input}
    per_class = {name: _column_means(values, np.ones(values.shape, bool), weight) for name, values in measured.items()}
    scores = {name: values.mean(axis=1) for name, values in per_class.items()}
    return scores | {f"{name}_per_class": values for name, values in per_class.items()}


def decide(probability: Floats, threshold: float) -> NDArray[np.int64]:
    """Class index int64[n]: two classes by `probability[:, 1] >= threshold`, more by the largest."""
    if probability.shape[1] == 2:
        return (probability[:, 1] >= threshold).astype(np.int64)
    return probability.argmax(axis=1)


def sureness(probability: Floats, threshold: float) -> Floats:
    """How sure a decision of `decide` is, float[n], for ranking: of two classes the distance to the threshold in log-odds, else the largest."""
    if probability.shape[1] != 2:
        return probability.max(axis=1)
    stated, limit = (np.clip(values, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY) for values in (probability[:, 1], np.float64(threshold)))
    return np.abs(np.log(stated / (1 - stated)) - np.log(limit / (1 - limit)))


def choose_threshold(probability: Floats, label: NDArray[np.int64], rule: str) -> float:
    """The probability of the positive class from which a case counts as positive.

    probability: float[n] and label: int64[n] (0 or 1), of the validation split, never of test. rule 'half': 0.5. 'validation':
    where balanced accuracy is highest, taken midway between two neighbouring probabilities; of equals the nearest to 0.5.
    Raises RunError where the validation split holds one class only.
    """
    if rule == "half":
        return 0.5
    if len(np.unique(label)) < 2:
        raise RunError("task.threshold=validation needs both classes in the validation split, which holds one; set task.threshold=half")
    values = np.unique(probability)
    candidates = np.concatenate([[0.5], (values[1:] + values[:-1]) / 2])
    positive, negative = np.sort(probability[label == 1]), np.sort(probability[label == 0])
    sensitivity = 1 - np.searchsorted(positive, candidates) / len(positive)
    specificity = np.searchsorted(negative, candidates) / len(negative)
    balanced = (sensitivity + specificity).round(12)  # equal shares can differ in the last bit
    best = candidates[balanced == balanced.max()]
    return float(best[np.abs(best - 0.5).argmin()])


def auroc(truth: NDArray[np.bool_], score: Floats, weight: Floats) -> Floats:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half (Mann-Whitney)."""
    positive, negative = weight_by_level(truth, score, weight)
    below = negative.cumsum(axis=1) - negative
    return _divide((positive * (below + negative / 2)).sum(axis=1), positive.sum(axis=1) * negative.sum(axis=1))


def average_precision(truth: NDArray[np.bool_], score: Floats, weight: Floats) -> Floats:
    """Precision at each distinct score, weighted by the gain in recall there; no interpolation, as in scikit-learn."""
    positive, negative = (counts[:, ::-1] for counts in weight_by_level(truth, score, weight))
    found = positive.cumsum(axis=1)
    precision = found / np.maximum(found + negative.cumsum(axis=1), 1e-300)
    return _divide((positive * precision).sum(axis=1), positive.sum(axis=1))


def calibration_error(label: NDArray[np.int64], probability: Floats, weight: Floats, edges: Floats) -> Floats:
    """Expected calibration error: the mean gap between stated and observed frequency over bins, weighted by rows.

    Two classes: probability of class 1 against its frequency. More: the largest probability against accuracy (Guo et al., 2017).
    edges: inner borders of the bins, ascending; a value on a border is in the bin above it.
    """
    stated, observed = stated_and_observed(label, probability)
    member = bin_of(stated, edges)[:, None] == np.arange(len(edges) + 1)
    gap = weight @ (member * (stated - observed)[:, None])
    return _divide(np.abs(gap).sum(axis=1), weight.sum(axis=1))


def equal_width_edges(stated: Floats, bins: int = CALIBRATION_BINS) -> Floats:
    """Borders that cut [0, 1] evenly."""
    return np.arange(1, bins) / bins


def equal_mass_edges(stated: Floats, bins: int = CALIBRATION_BINS) -> Floats:
    """Borders between which about as many of `stated` lie; equal values stay together (Nixon et al., 2019)."""
    return np.quantile(stated, np.arange(1, bins) / bins)


def stated_and_observed(label: NDArray[np.int64], probability: Floats) -> tuple[Floats, Floats]:
    """What calibration compares, float[n] each: the probability a model states for an event, and whether the event was so."""
    if probability.shape[1] == 2:
        return probability[:, 1], (label == 1).astype(np.float64)
    return probability.max(axis=1), (probability.argmax(axis=1) == label).astype(np.float64)


def bin_of(stated: Floats, edges: Floats) -> NDArray[np.int64]:
    """Index of the bin that holds each value."""
    return np.searchsorted(edges, stated, side="right")


def weight_by_level(truth: NDArray[np.bool_], score: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Weight of positives and of negatives at each distinct score, ascending: float[resamples, levels] each."""
    order = np.argsort(score, kind="stable")
    ranked = score[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    sorted_weight = weight[:, order]
    positive = np.add.reduceat(sorted_weight * truth[order], starts, axis=1)
    return positive, np.add.reduceat(sorted_weight, starts, axis=1) - positive


def _share(weight: Floats, value: Floats) -> Floats:
    """Weighted mean of value[n] in each resample."""
    return _divide(weight @ value, weight.sum(axis=1))


def _column_means(value: Floats, there: NDArray[np.bool_], weight: Floats) -> Floats:
    """Weighted mean of each column of value[n, C] over the entries that are there: [resamples, C]."""
    return _divide(weight @ np.where(there, value, 0.0), weight @ there)


def _mean_defined(by_class: Floats) -> Floats:
    """Mean over the classes whose score is defined in that resample."""
    there = ~np.isnan(by_class)
    return _divide(np.where(there, by_class, 0.0).sum(axis=1), there.sum(axis=1))


def _divide(numerator: Floats, denominator: Floats) -> Floats:
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)
