"""How scores are said to people: titles, meanings, digits and the sentence at the top of the page; the numbers come from result.json."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Score:
    """One score of one split, ready to be shown."""

    key: str
    title: str
    value: str
    interval: str
    """'0.962 to 0.984'; empty where there is none."""
    bar: tuple[float, float, float] | None
    """Low, value and high in percent of the scale; None for scores without an upper end."""
    scale: tuple[str, str]
    """Ends of the bar's scale."""


@dataclass(frozen=True)
class Meaning:
    title: str
    text: str
    unit: str = ""
    low: float = 0.0
    """Where the bar begins: what guessing gives, for ranks."""
    bounded: bool = True


MEANINGS = {
    "auroc": Meaning("AUROC", "Chance that a positive case is given a higher probability than a negative one; 0.5 is guessing.", low=0.5),
    "concordance": Meaning(
        "Concordance", "Chance that of two patients the one with the earlier event is given the higher risk; 0.5 is guessing.", low=0.5
    ),
    "average_precision": Meaning("Average precision", "Area under precision over recall; guessing gives the prevalence."),
    "balanced_accuracy": Meaning("Balanced accuracy", "Mean over classes of the share recognised; not moved by prevalence."),
    "accuracy": Meaning("Accuracy", "Share of cases decided rightly."),
    "sensitivity": Meaning("Sensitivity", "Share of positive cases that are called positive."),
    "specificity": Meaning("Specificity", "Share of negative cases that are called negative."),
    "ppv": Meaning("PPV", "Share of positive calls that are right, at this split's prevalence."),
    "npv": Meaning("NPV", "Share of negative calls that are right, at this split's prevalence."),
    "f1": Meaning("F1", "Harmonic mean of sensitivity and PPV."),
    "quadratic_kappa": Meaning(
        "Quadratic kappa", "Agreement with the true order of classes beyond chance, far misses weighing more; 1 is perfect, 0 is chance."
    ),
    "mae": Meaning("Mean absolute error", "Mean distance of the decided from the true class, in classes.", unit=" classes", bounded=False),
    "brier": Meaning("Brier score", "Mean squared error of the probabilities; 0 is perfect."),
    "ece": Meaning(
        "Calibration error",
        "Mean gap between stated probability and observed frequency over 15 bins (ECE); 0 is perfect, and small samples raise it.",
    ),
    "ece_equal_mass": Meaning(
        "Calibration error, equal bins", "The same over 15 bins that hold equally many cases each, so that none rests on a few of them."
    ),
    "log_loss": Meaning(
        "Log loss", "Mean of −log of the probability given to the truth; 0 is perfect, sure errors cost most.", bounded=False
    ),
    "dice": Meaning("Dice", "Overlap of predicted and true region, 1 is perfect; mean over classes of the mean over cases."),
    "iou": Meaning("IoU", "Overlap as a share of the union of both regions (Jaccard); always below Dice."),
    "nsd": Meaning("Surface Dice", "Share of both surfaces that lies within the tolerance of the other (NSD); 0 where one side is empty."),
    "hd95": Meaning(
        "HD95", "95th percentile of the distance between the two surfaces, in millimetres; 0 is perfect.", unit=" mm", bounded=False
    ),
    "hd95_infinite_share": Meaning("HD95 undefined", "Share of (case, class) pairs where one side is empty: left out of HD95."),
    "volume_bias_ml": Meaning("Volume bias", "Mean of predicted minus true volume.", unit=" ml", bounded=False),
    "volume_error_ml": Meaning("Volume error", "Mean absolute difference of the volumes.", unit=" ml", bounded=False),
    "psnr": Meaning("PSNR", "Peak signal-to-noise ratio of the restored image; 6 dB more halve the error.", unit=" dB", bounded=False),
    "psnr_input": Meaning("PSNR, degraded", "The same of the degraded image that the model was given.", unit=" dB", bounded=False),
    "psnr_gain": Meaning("PSNR gained", "Restored minus degraded, paired by image; above 0 the model helps.", unit=" dB", bounded=False),
    "ssim": Meaning("SSIM", "Structural similarity of the restored image and the original; 1 is perfect."),
    "ssim_input": Meaning("SSIM, degraded", "The same of the degraded image that the model was given."),
    "ssim_gain": Meaning("SSIM gained", "Restored minus degraded, paired by image; above 0 the model helps.", bounded=False),
}

HEADLINES = {
    "binary": ("auroc", "balanced_accuracy", "sensitivity", "specificity"),
    "classes": ("auroc", "balanced_accuracy", "accuracy", "ece"),
    "segmentation": ("dice", "hd95"),
    "restoration": ("psnr", "psnr_gain", "ssim", "ssim_gain"),
}
MOST_TILES = 4
FEW_PATIENTS = 50
"""Below this the bootstrap's percentile intervals are known to be too narrow and unsteady."""
PREVALENCE_SHIFT = 0.1
"""Difference in a class's share, between the scored split and train, that a reader should know of."""


def score(block: dict[str, Any], key: str) -> Score:
    """The score `key` of a block of result.json."""
    meaning = MEANINGS[key]
    value, interval = block.get(key), block.get(f"{key}_ci", [None, None])
    bar = None
    if value is not None and interval[0] is not None and meaning.bounded:
        low, middle, high = (100 * min(max((float(v) - meaning.low) / (1 - meaning.low), 0), 1) for v in (interval[0], value, interval[1]))
        bar = (low, middle, high)
    return Score(key, meaning.title, number(value, meaning.unit), span(interval, meaning.unit), bar, (f"{meaning.low:g}", "1"))


def headlines(block: dict[str, Any], kind: str) -> list[Score]:
    """The scores shown large; a segmenter's classes have one each where there is room."""
    shown = [score(block, key) for key in HEADLINES[kind] if block.get(key) is not None]
    by_class = block.get("dice_per_class", {})
    if kind == "segmentation" and 1 < len(by_class) <= MOST_TILES - len(shown):
        single = [score({"dice": by_class[name], "dice_ci": block["dice_per_class_ci"][name]}, "dice") for name in by_class]
        shown[1:1] = [replace(s, title=f"Dice, {name}") for s, name in zip(single, by_class, strict=True)]
    return shown


def scores_of(block: dict[str, Any]) -> list[Score]:
    """Every scalar score of a block, in the order of MEANINGS; of undefined distances only where there are some."""
    return [score(block, key) for key in MEANINGS if key in block and (key != "hd95_infinite_share" or block[key])]


def class_table(block: dict[str, Any]) -> tuple[list[str], list[tuple[str, list[Score]]]]:
    """Titles of the scores by class, and for each class its name and scores; empty where there are none."""
    keys = [key for key in MEANINGS if f"{key}_per_class" in block]
    names = list(block[f"{keys[0]}_per_class"]) if keys else []
    rows = []
    for name in names:
        single = {key: block[f"{key}_per_class"][name] for key in keys}
        bounds = {f"{key}_ci": block[f"{key}_per_class_ci"][name] for key in keys}
        rows.append((name, [score(single | bounds, key) for key in keys]))
    return [MEANINGS[key].title for key in keys], rows


def number(value: float | None, unit: str = "") -> str:
    """Three decimals, two where there is a unit; a dash where the score is undefined."""
    if value is None:
        return "–"
    return (f"{value:.2f}{unit}" if unit else f"{value:.3f}").replace("-", "−")


def span(interval: list[float | None], unit: str = "") -> str:
    """'0.962 to 0.984', '1.20 to 2.31 mm'; empty where the interval is undefined."""
    if interval[0] is None:
        return ""
    return f"{number(interval[0], unit).removesuffix(unit)} to {number(interval[1], unit)}"


def counted(count: int, noun: str) -> str:
    """'1 image', '1,204 images'."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def threshold_sentence(threshold: dict[str, Any], positive: str | None) -> str:
    """How a decision is made, and on what the threshold was set."""
    what = f"counts as {positive}" if positive else "counts as positive"
    when = (
        "a threshold fixed before training"
        if threshold["rule"] == "half"
        else "the threshold with the best balanced accuracy on the validation split"
    )
    return f"A case {what} from a predicted probability of {threshold['value']:.3g}, {when}."


def calibration_sentence(result: dict[str, Any]) -> str:
    """What temperature scaling did, or why it was not done; empty for tasks and results without it."""
    calibration = result.get("calibration")
    if calibration is None:
        lacking = "calibration" in result
        return "Temperature and operating points need the validation split: hepdist evaluate RUN --split val." if lacking else ""
    if not calibration["temperature"]:
        return f"No temperature could be fitted: {calibration['reason']}."
    temperature = calibration["temperature"]
    what = "less sure" if temperature > 1 else "surer"
    return (
        f"On validation ({calibration['n']:,} cases) the probabilities fit best when made {what}, by a temperature of {temperature:.2f}; those"
        " shown and stored are as predicted, unless said otherwise."
    )


def cautions(block: dict[str, Any], result: dict[str, Any], split: str, noun: str) -> list[str]:
    """What a careful reader should know before quoting the scores."""
    found = []
    if block["patients"] < FEW_PATIENTS:
        found.append(f"Only {counted(block['patients'], 'patient')} were scored: the intervals are wide and themselves uncertain.")
    if block["unlabelled"]:
        found.append(f"{counted(block['unlabelled'], noun)} of this split have no label and were not scored.")
    for name, skipped in block["resamples_skipped"].items():
        title = MEANINGS[name.removesuffix("_per_class")].title
        if not name.endswith("_per_class") and skipped > block["resamples"] / 100:
            found.append(f"{title} could not be computed in {skipped} of {block['resamples']} resamples, which its interval leaves out.")
    perfect = [MEANINGS[name].title for name in ("auroc", "sensitivity", "specificity") if block.get(name) in (0, 1) and name in block]
    if perfect:
        found.append(
            f"{' and '.join(perfect)} {'is' if len(perfect) == 1 else 'are'} at the end of the scale, where resamples have no spread: the interval"
            " can't say how far the truth may be from it."
        )
    if block.get("hd95_infinite_share"):
        found.append(
            f"In {100 * block['hd95_infinite_share']:.1f} % of (case, class) pairs only one of truth and prediction is empty; HD95 leaves them out."
        )
    main = {"segmentation": "dice", "restoration": "psnr"}.get(result["task"], "auroc")
    validation = result["split"].get("val", {})
    if split == "test" and validation.get(main) is not None and block.get(main) is not None:
        low, high = validation[f"{main}_ci"], block[f"{main}_ci"]
        if None not in (*low, *high) and low[0] > high[1]:
            found.append(
                f"{MEANINGS[main].title} is {number(validation[main])} on validation and {number(block[main])} here, and the intervals do not"
                " overlap: the two splits differ, or the model was tuned to validation."
            )
    return found


def prevalence_caution(block: dict[str, Any], train: dict[str, int], split: str) -> list[str]:
    """A sentence where the class shares of the scored split are far from those of the train split."""
    here, total = block.get("classes", {}), sum(train.values())
    scored = sum(here.values())
    if not here or not total or not scored:
        return []
    name = max(here, key=lambda n: abs(here[n] / scored - train.get(n, 0) / total))
    now, then = here[name] / scored, train.get(name, 0) / total
    if abs(now - then) <= PREVALENCE_SHIFT:
        return []
    return [
        f"{name} makes up {100 * now:.0f} % of {split} and {100 * then:.0f} % of train: accuracy, PPV, NPV and calibration depend on that share."
    ]
