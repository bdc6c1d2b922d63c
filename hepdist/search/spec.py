"""The `search:` section of a recipe: what is varied, who proposes, who stops, what may be spent, how the winner is confirmed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from hepdist.spec import Spec

Group = Literal["model", "lr", "optim", "batch", "augment", "loss"]


class SearchSpec(Spec):
    folder: str = "searches"
    """Folder that holds all searches; on a cluster a path that every node sees."""
    families: tuple[str, ...] = ()
    """Families to choose from; empty: all that serve the task and read the same inputs as the recipe's own."""
    vary: tuple[Group, ...] = ("model", "lr", "optim", "augment")
    """What is varied by default: the families' own ranges, the learning rate (a decade each way from the recipe's), weight decay and schedule,
    the global batch (half to double), the strength of all augmentation, the parameters of the task's loss."""
    space: dict[str, Any] = Field(default_factory=dict)
    """Ranges beside or in place of those, by recipe key (`optim.lr`) or by family and field (`densenet.depth`): a list of choices,
    {low:, high:, log:}, or one value to hold it fixed."""
    searcher: Literal["random", "grid", "tpe"] = "tpe"
    """Who proposes: uniform draws, all combinations (ranges cut in `grid_points`), or Optuna's tree-structured Parzen estimator
    (Bergstra et al., 2011), after its first random ten."""
    grid_points: PositiveInt = 3
    """Values that a grid takes of a range."""
    objectives: tuple[Literal["quality", "parameters", "seconds"], ...] = ("quality",)
    """Besides the validation score: the model's parameters, or seconds an image at inference; with more than one, searcher=tpe looks for
    the best trade-offs, and the leaderboard marks them."""
    scheduler: Literal["asha", "hyperband", "pbt", "median", "none"] = "asha"
    """Who stops trials early: ASHA (Li et al., 2020), HyperBand (Li et al., 2018), population based training (Jaderberg et al., 2017: losers
    continue from a winner's weights with a changed learning rate), the median rule (Golovin et al., 2017), or nobody."""
    grace: NonNegativeInt = 0
    """Validations that a trial has before it may be stopped; ASHA's first rung. 0: after 1 / reduction² of the epochs, but not before the
    warm-up of the learning rate is over: earlier than that what learns fast is kept, not what learns well."""
    reduction: Annotated[int, Ge(2)] = 3
    """ASHA, HyperBand: of so many trials one goes on to the next rung, which is as many times longer."""
    perturb_every: PositiveInt = 2
    """PBT: validations between two looks at who loses."""
    trials: PositiveInt = 20
    device_hours: NonNegativeFloat = 0.0
    """Hours of all devices (GPUs, or CPUs where there are none) after which nothing new is started and what runs is stopped; 0: no limit."""
    money: NonNegativeFloat = 0.0
    """The same in the currency of `prices`; 0: no limit."""
    prices: dict[str, NonNegativeFloat] = Field(default_factory=dict)
    """Price an hour of one device, by node type and market as in `cluster.yaml`: {gpu-l4.spot: 0.35, gpu-l4: 0.80}; `default` is for all others."""
    concurrent: NonNegativeInt = 0
    """Most trials at a time; 0: as many as the cluster has room for, as it must be for hyperband and pbt."""
    gpus_per_worker: Annotated[float, Gt(0)] = 1.0
    """Of a GPU, where there are GPUs: below 1, small models share one."""
    retries: NonNegativeInt = 2
    """Times that a trial whose machine or process went away goes on from its last checkpoint. One that fails by itself is not tried again."""
    confirm: NonNegativeInt = 3
    """Best trials that are trained from scratch again, to the full; 0: none, and the test split stays untouched."""
    seeds: PositiveInt = 3
    """Seeds of each confirmed one; validation decides among them, and the winner alone is scored on test, once."""
    ensemble: bool = False
    """Also score the mean of the confirmed models' predictions."""
    seed: NonNegativeInt = 0
    warm_start: tuple[str, ...] = ()
    """Earlier searches, as folders or as names under `folder`, from whose trials a tpe searcher learns first."""
    mlflow: str = ""
    """Where to log trials to MLflow as well: a folder, or a tracking server's URI; needs the extra hepdist[mlflow]."""
    hours: NonNegativeFloat = 0.0
    """Wall-clock hours after which the search ends with what it has; 0: no limit."""

    @property
    def may_end_early(self) -> bool:
        """Whether anything but the number of trials ends the search."""
        return bool(self.device_hours or self.money or self.hours)
