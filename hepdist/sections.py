"""The sections of a recipe: every field with its range, its unit and what it is for."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from hepdist.errors import RecipeError
from hepdist.spec import Spec

Share = Annotated[float, Ge(0), Le(1)]
Target = Annotated[float, Gt(0), Le(1)]


class DataSpec(Spec):
    cohort: str
    """Folder that `hepdist ingest` wrote."""
    normalise: Literal["cohort", "image", "none"] = "cohort"
    """cohort: subtract the train split's mean and divide by its standard deviation; image: each image by its own
    (MR has no absolute unit); none: as stored, integers divided by the largest value of their type (255, 32767 or 65535)."""
    emr: bool = False
    """Feed the EMR columns to the model; needs a cohort with EMR."""
    window_mib: PositiveFloat = 64.0
    """Size of the sample-level shuffle window, over all workers; a split that fits is shuffled whole."""
    reader: Literal["auto", "ray", "worker"] = "auto"
    """Who reads the shards: Ray Data's processes beside the workers, or a thread of each worker. auto: the worker where what it trains
    on is small and in a folder, so that no processes have to start and none share its cores; the batches are the same."""
    readers: PositiveInt = 1
    """Concurrent Ray Data read tasks a worker; one delivers thousands of images a second."""
    verify: bool = True
    """Hold each shard in a folder against its sha256 when a process first reads from it, 0.7 s of a core a GiB; every worker reads from
    every shard in an epoch, so turn it off for cohorts of terabytes and let `hepdist inspect` check them."""


class TaskSpec(Spec):
    kind: Literal["classification", "segmentation", "survival", "restoration"]
    """survival: the label is an event within a horizon (event= and horizon= at ingest), and rows censored before it teach too."""
    label_smoothing: Annotated[float, Ge(0), Le(0.5)] = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: weight classes by the inverse of their frequency in the train split."""
    focal: Annotated[float, Ge(0), Le(5)] = 0.0
    """Gamma of the focal loss (Lin et al., 2017): easy samples count less, 2 in the paper; 0 is plain cross-entropy."""
    ordinal: bool = False
    """The classes are in order (grades, stages): learned step by step, scored by quadratic kappa and mean absolute error as well."""
    threshold: Literal["half", "validation"] = "half"
    """How a binary decision is made: at probability 0.5, or where balanced accuracy is best on validation. Never on test."""
    intervals: Annotated[int, Ge(1), Le(100)] = 10
    """Survival: equally long parts of the horizon, each with a hazard of its own."""
    activation: Literal["softmax", "sigmoid"] = "softmax"
    """Segmentation head: softmax for exclusive classes, sigmoid for overlapping ones."""
    dice_weight: Share = 0.5
    """Segmentation loss = dice_weight * Dice + (1 - dice_weight) * cross-entropy."""
    boundary_weight: NonNegativeFloat = 0.0
    """Weight of the boundary loss (Kervadec et al., 2019), added to Dice and cross-entropy, which it can't replace; 0 is off."""
    ssim_weight: Share = 0.2
    """Restoration loss = ssim_weight * (1 - SSIM) + (1 - ssim_weight) * mean absolute error (Zhao et al., 2017), from black 0 to white 1."""
    select: str = ""
    """Validation metric that picks the best checkpoint; empty: auroc for classification, dice for segmentation, psnr for restoration."""


class AugmentSpec(Spec):
    """Random changes drawn per sample on the worker's device; the draw depends on (seed, epoch, position) alone."""

    rotate: Annotated[float, Ge(0), Le(180)] = 0.0
    """Largest rotation, degrees (in 3D about each axis)."""
    scale: Annotated[float, Ge(0), Le(0.9)] = 0.0
    """Largest relative zoom in or out."""
    translate: Annotated[float, Ge(0), Le(0.5)] = 0.0
    """Largest shift, as a share of each side."""
    elastic: Annotated[float, Ge(0), Le(0.1)] = 0.0
    """Largest shift by a smooth deformation (cubic B-splines, knots a quarter of the side apart), as a share of each side."""
    crop: tuple[PositiveInt, ...] = ()
    """Sides of a window that training takes from a random place of each image; empty: the whole image, as in validation and test."""
    flip: tuple[NonNegativeInt, ...] = ()
    """Spatial axes that may be mirrored (0 is the first after the channel); only where anatomy allows."""
    brightness: Annotated[float, Ge(0)] = 0.0
    """Largest additive shift, in standard deviations of the normalised image."""
    contrast: Annotated[float, Ge(0), Le(0.9)] = 0.0
    """Largest relative change of contrast about the mean."""
    gamma: Annotated[float, Ge(0), Le(0.9)] = 0.0
    """Largest relative change of the exponent, applied to the image scaled to 0..1."""
    blur: Annotated[float, Ge(0), Le(8)] = 0.0
    """Largest standard deviation of a Gaussian blur, in voxels."""
    noise: Annotated[float, Ge(0)] = 0.0
    """Largest standard deviation of added Gaussian noise, in standard deviations of the normalised image."""
    mixup: Annotated[float, Ge(0)] = 0.0
    """Alpha of the Beta distribution of mixup (Zhang et al., 2018); 0 is off; classification only."""
    cutmix: Annotated[float, Ge(0)] = 0.0
    """Alpha of the Beta distribution of cutmix (Yun et al., 2019): a box of another image; with mixup each sample has one of the two."""
    erase: Annotated[float, Ge(0), Le(0.5)] = 0.0
    """Largest box that is overwritten by the image's mean (Zhong et al., 2020), as a share of the image; masks stay as they are."""
    test_flip: tuple[NonNegativeInt, ...] = ()
    """Axes over which predictions are averaged with their mirrored selves, in validation and in test."""
    test_shift: Annotated[int, Ge(0), Le(8)] = 0
    """Voxels, along all axes at once, by which images are moved to average predictions once more, in validation and in test: a network that
    starts with a stride draws its borders a little differently on another grid; segmentation only."""


Ends = tuple[Annotated[float, Ge(0)], Annotated[float, Ge(0)]]


class DegradeSpec(Spec):
    """What a restoration model undoes. A training sample gets one of `kinds` at a strength between the two ends, both drawn from (seed,
    epoch, position); a validation or test row gets each of them, drawn from its number alone. Intensities run from black 0 to white 1."""

    kinds: tuple[Literal["noise", "blur", "occlusion"], ...] = ()
    """For task.kind=restoration, and only for it."""
    photons: Ends = (30.0, 120.0)
    """noise: photons expected at white, all ratios as likely; their Poisson variance at intensity x is x / photons."""
    read_noise: Ends = (0.01, 0.04)
    """noise: standard deviation of the Gaussian part, equal at all intensities."""
    blur: Ends = (0.7, 1.5)
    """blur: standard deviation of a Gaussian, pixels."""
    occlusion: Ends = (0.03, 0.12)
    """occlusion: share of the image that a box of one grey covers."""

    @model_validator(mode="after")
    def _ends_in_order(self) -> DegradeSpec:
        for name, least, most in (("photons", 1, None), ("read_noise", 0, None), ("blur", 0, None), ("occlusion", 0, 1)):
            low, high = getattr(self, name)
            if not least <= low <= high or (most is not None and high > most):
                limits = f"at least {least}" + (f" and at most {most}" if most is not None else "")
                raise RecipeError(f"recipe key 'degrade.{name}' is [{low:g}, {high:g}]; give two ends of {limits}, the lower one first")
        if len(set(self.kinds)) < len(self.kinds):
            raise RecipeError(f"recipe key 'degrade.kinds' is {list(self.kinds)}; name each kind once")
        return self


class OptimSpec(Spec):
    lr: PositiveFloat = 1e-3
    """Peak learning rate, for the global batch (not per worker): changing the worker count changes nothing."""
    weight_decay: Annotated[float, Ge(0)] = 0.01
    """AdamW's decoupled decay; not applied to biases and norms."""
    beta1: Annotated[float, Ge(0), Le(0.9999)] = 0.9
    beta2: Annotated[float, Ge(0), Le(0.99999)] = 0.999
    warmup: Annotated[float, Ge(0), Le(0.5)] = 0.05
    """Share of all steps spent rising linearly to `lr`; small cohorts diverge without it."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """After the warm-up: half a cosine down to `final_lr`, or no change."""
    final_lr: Share = 0.01
    """Learning rate at the end, as a share of `lr`."""
    clip: Annotated[float, Ge(0)] = 1.0
    """Largest global L2 norm of the gradient; 0 turns clipping off."""
    ema: Annotated[float, Ge(0), Le(0.99999)] = 0.0
    """Decay a step of the exponential moving average of the weights; 0 is off. Validation and test use the average."""


class TrainSpec(Spec):
    epochs: PositiveInt = 10
    seed: NonNegativeInt = 0
    workers: PositiveInt | tuple[PositiveInt, PositiveInt] = 2
    """Worker processes, one GPU each where there are GPUs, or the fewest and the most of an elastic run, which goes on with as many as the
    cluster has room for. Sample order and global batch do not depend on it."""
    cpus_per_worker: Annotated[float, Ge(0.2)] = 1.0
    """CPUs that a worker and its reader take together; below 1, workers share cores (small cohorts, tests)."""
    global_batch: PositiveInt = 64
    """Samples an optimiser step, over all workers."""
    micro_batch: PositiveInt | None = None
    """Most samples a worker holds in one forward pass; gradient accumulation is derived. None: no accumulation."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO: 1 shards optimiser state, 2 gradients too, 3 parameters too. Where a model fits whole, 0 is the fastest:
    stage 1 took 8 to 10 % longer a step on CPUs."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs the forward and backward pass in bfloat16 autocast over fp32 master weights."""
    offload: Literal["none", "optimizer", "parameters"] = "none"
    """What waits in the machine's memory instead of the GPU's, for models that fit no other way; steps take longer. optimizer: AdamW's
    moments and fp32 weights, and AdamW runs on the CPU (ZeRO 1 to 3); parameters: the weights themselves as well (ZeRO 3)."""
    deterministic: bool = False
    """Only operations that give the same bits in every run (docs/settings.md says what that costs and what it covers). Off, since on CPUs
    training is bit-identical without it; on GPUs convolutions and gradients of pooling and resizing may differ in their last bits from
    run to run. Where a network needs an operation that has no such form on a GPU, training says so and stops."""
    init_from: str = ""
    """Run whose best weights a fresh start takes over, as a folder or as a name under `runs`; tensors of other names or shapes, such as
    those of a head with other classes, start anew."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA when the cluster has a GPU for each worker."""
    patience: NonNegativeInt = 0
    """Epochs without improvement of the validation metric after which training stops; 0 never stops early."""
    validate_every: PositiveInt = 1
    """Epochs between validations."""
    checkpoint_every: NonNegativeInt = 0
    """Optimiser steps between checkpoints, besides the one that ends each validated epoch; 0: none in between."""
    keep: PositiveInt = 2
    """Latest checkpoints kept, besides the best."""
    mirror: str = ""
    """Folder or URI, such as s3://bucket/runs, that gets a copy of each checkpoint under the run's name; a machine whose own run folder is
    empty or behind goes on from there. Empty: none."""
    max_failures: NonNegativeInt = 3
    """Times the worker group is restarted from its last checkpoint before the run gives up; leaving an announced node is no failure."""
    preemption_grace_s: NonNegativeFloat = 30.0
    """Seconds past a cloud's deadline in which the workers of other nodes may finish writing a checkpoint that was begun before it."""
    stop_grace_s: PositiveFloat = 25.0
    """Seconds after SIGTERM or Ctrl-C in which workers save and leave; Kubernetes and Slurm kill 30 s after SIGTERM, docker stop after 10."""
    on_nonfinite: Literal["stop", "skip", "back_off"] = "stop"
    """When a step's loss or gradient is NaN or infinite, which never reaches the weights: stop with the samples' ids, leave the step out,
    or leave it out and halve the learning rate from there on. Ten such steps in a row stop the run in any case."""
    hang_s: NonNegativeFloat = 1800.0
    """Seconds without a step after which a worker counts as hung and its group is restarted; 0: wait for ever. More than the longest of
    torch.compile, one validation batch and the writing of a checkpoint."""
    record_samples: bool = False
    """Write the rows that each worker trained on, step by step, into `samples/` of the run: the proof that every sample counted once."""
    compile: bool = False
    """torch.compile the model: minutes at the start, worth it on long GPU runs."""

    @property
    def fewest(self) -> int:
        """Workers without which training does not start."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most(self) -> int:
        """Workers that there are at one time, at most."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]


class EvaluationSpec(Spec):
    splits: tuple[Literal["train", "val", "test"], ...] = ("val", "test")
    """Splits scored when training ends; empty leaves it to `hepdist evaluate`."""
    batch: PositiveInt = 32
    """Samples a forward pass; fixed, so that scores do not depend on the number of workers."""
    bootstrap: PositiveInt = 1000
    """Resamples of patients behind each 95 % interval."""
    surface: bool = True
    """Compute HD95 (millimetres) and the normalised surface Dice (NSD) in segmentation."""
    tolerance_mm: PositiveFloat = 1.0
    """How far apart two surfaces may be and still agree, for NSD: as far as two readers of the same image are from each other."""
    sensitivities: tuple[Target, ...] = (0.9, 0.95)
    """Operating points: thresholds that reach these on validation, whose sensitivity and specificity are then measured on test; two classes."""
    specificities: tuple[Target, ...] = (0.9, 0.95)
    """The same at fixed specificity."""
    subgroups: Literal["auto"] | tuple[str, ...] = "auto"
    """Columns of the cohort by whose groups scores are compared: of its EMR, its DICOM headers, or `site`. auto: age, sex, site and
    manufacturer, where the cohort has them."""
    window: tuple[PositiveInt, ...] = ()
    """Sides of the windows, half overlapping and blended by a Gaussian, in which segmentation sees a larger image in validation and
    test; empty: the whole image at once. Take the sides of augment.crop, or more."""
