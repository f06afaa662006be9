"""The settings of a training run, checked before any work."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar, get_args

from fewshot.validation import Metric, check_choice, check_count

Method = Literal["classical", "prototypical", "maml", "anil"]
METHODS: tuple[Method, ...] = get_args(Method)
Augmentation = Literal["photos", "glyphs", "none"]
AUGMENTATIONS: tuple[Augmentation, ...] = get_args(Augmentation)

T = TypeVar("T")

# Images (classical) or episodes of each data set in a step.
_BATCH = {"classical": 128, "prototypical": 1, "maml": 4, "anil": 4}
_RATE = {"classical": 0.1, "prototypical": 1e-3, "maml": 1e-3, "anil": 1e-3}
_ONE_EACH = ("ways", "batch_size", "augment", "weights", "contrastive")
# Pretrained weights are fine-tuned: at lower rates.
_RATE_FROM_WEIGHTS = {"classical": 1e-2, "prototypical": 5e-5, "maml": 1e-4, "anil": 1e-4}


@dataclass(frozen=True)
class Recipe:
    """How to train; a tuple holds one value for all data sets, or one for each.

    Attributes
    ----------
    arch : str
        "resnet12" or "conv4" (``fewshot_resnet12``, ``fewshot_conv4``), "pocket" (the bundled weights), a folder of
        weights, or any timm name: one with a tag ("resnet18.a1_in1k"), "hf-hub:" or "local-dir:" starts from those
        weights, an architecture alone ("resnet18", "fewshot_pocket") from scratch.
    method : {"classical", "prototypical", "maml", "anil"}
        "classical": cross-entropy with a cosine head for each data set; every batch has images of all of them.
        "prototypical": episodes, queries classified by the closest class mean. "maml", "anil": episodes, each adapted
        to by some steps of gradient descent on the whole network, or on the last layer alone.
    size : int, optional
        Pixels a side; by default the network's own.
    epochs : int
        An epoch has as many images of the first data set as that holds, rotated ones counted too.
    ways, shots, queries : tuple of int, int, int
        Of the episodes of validation and of the episodic methods; fewer queries where a class is small. A validation
        episode has classes of one group, such as an alphabet, where some group has so many.
    batch_size : tuple of int, optional
        Images (classical) or episodes (the others) of each data set in a step; by default 128, 1 (prototypical), 4.
    augment : tuple of {"photos", "glyphs", "none"}
        "photos": crop, flip, colour. "glyphs": in grey; affine, elastic, stroke width, ink and paper colour.
    rotations : bool
        Each quarter turn of a class of glyphs is a class of its own.
    weights : tuple of float
        Of the data sets' losses.
    contrastive : tuple of float
        Weight of a supervised contrastive loss added to the cross-entropy (classical); above 0 a batch holds two
        images of each of its classes.
    metric : {"cosine", "sqeuclidean"}
        Of validation, and of prototypical training: "sqeuclidean" is Snell et al.'s, "cosine" with a learned scale
        Hu et al.'s.
    learning_rate : float, optional
        The highest: linear warm-up over a tenth of the steps, then cosine decay. By default 0.1 for classical training
        from scratch (SGD), 0.001 for the others (AdamW); from pretrained weights 0.01, 5e-5 (prototypical), 1e-4.
    grow : bool
        Start with images of half the size, and enlarge them in three steps: half the computation.
    inner_steps, inner_rate : int, float
        Of gradient descent in an episode (maml, anil).
    hold_out : float
        Share of the classes for validation, whole groups where there are groups, of data without a split "val".
    seed : int
        Of everything random; below 2**32.

    Raises
    ------
    ValueError, TypeError : for an invalid value, naming it.

    References
    ----------
    Chen et al. 2019, arXiv:1904.04232 (classical, with a cosine head). Snell, Swersky & Zemel 2017, arXiv:1703.05175,
    and Hu et al. 2022, arXiv:2204.07305 (prototypical). Finn, Abbeel & Levine 2017, arXiv:1703.03400 (MAML). Raghu et
    al. 2020, arXiv:1909.09157 (ANIL). Khosla et al. 2020, arXiv:2004.11362 (contrastive).
    """

    arch: str = "resnet12"
    method: Method = "classical"
    size: int | None = None
    epochs: int = 20
    ways: tuple[int, ...] = (5,)
    shots: int = 1
    queries: int = 15
    batch_size: tuple[int, ...] | None = None
    augment: tuple[Augmentation, ...] = ("photos",)
    rotations: bool = False
    weights: tuple[float, ...] = (1.0,)
    contrastive: tuple[float, ...] = (0.0,)
    metric: Metric = "cosine"
    learning_rate: float | None = None
    grow: bool = False
    inner_steps: int = 5
    inner_rate: float = 0.1
    hold_out: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in _ONE_EACH:
            value = getattr(self, name)
            if value is not None and not isinstance(value, tuple):
                raise TypeError(
                    f"{name} holds a value for all data sets, or one for each: give ({value!r},), not {value!r}"
                )
        check_choice("method", self.method, METHODS)
        check_choice("metric", self.metric, ("cosine", "sqeuclidean"))
        for kind in self.augment:
            check_choice("augment", kind, AUGMENTATIONS)
        for ways in self.ways:
            check_count("ways", ways, minimum=2)
        for name in ("epochs", "shots", "queries", "inner_steps"):
            check_count(name, getattr(self, name))
        for batch in self.batch_size or ():
            check_count("batch_size", batch)
        if check_count("seed", self.seed, minimum=0) >= 2**32:
            raise ValueError(f"seed must be below 2**32, not {self.seed!r}")
        if self.size is not None:
            check_count("size", self.size, minimum=8)
        self._check_numbers()
        self._check_together()

    def _check_numbers(self) -> None:
        for name in ("learning_rate", "inner_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0, not {value!r}")
        for name in ("weights", "contrastive"):
            if not all(0 <= weight < math.inf for weight in getattr(self, name)):
                raise ValueError(f"{name} must not be negative: {getattr(self, name)!r}")
        if not 0 <= self.hold_out < 1:
            raise ValueError(f"hold_out is a share of the classes, from 0 up to but not 1, not {self.hold_out!r}")

    def _check_together(self) -> None:
        if self.rotations and "glyphs" not in self.augment:
            raise ValueError("rotations are classes of glyphs: they need the augmentation 'glyphs'")
        if any(self.contrastive) and self.method != "classical":
            raise ValueError(f"contrastive is for classical training, not {self.method}")
        if self.grow and self.adapts:
            raise ValueError(f"grow is for classical and prototypical training, not {self.method}")

    @property
    def episodic(self) -> bool:
        """Whether steps are made of episodes."""
        return self.method != "classical"

    @property
    def adapts(self) -> bool:
        """Whether training adapts to each episode by gradient descent."""
        return self.method in ("maml", "anil")

    def batches(self, sets: int) -> tuple[int, ...]:
        """Return the images, or episodes, of each data set in a step."""
        return per_set("batch_size", self.batch_size or (_BATCH[self.method],), sets)

    def images_per_step(self, sets: int) -> int:
        """Return the number of images in a step, at most."""
        batches = self.batches(sets)
        if not self.episodic:
            return sum(batches)
        ways = per_set("ways", self.ways, sets)
        return sum(t * c * (self.shots + self.queries) for t, c in zip(batches, ways, strict=True))

    def rate(self, from_weights: bool) -> float:
        """Return the highest learning rate."""
        if self.learning_rate is not None:
            return self.learning_rate
        return (_RATE_FROM_WEIGHTS if from_weights else _RATE)[self.method]

    def size_in(self, epoch: int, size: int) -> int:
        """Return the pixels a side in an epoch; ``size`` in the last ones."""
        if not self.grow:
            return size
        done = epoch / self.epochs
        if done >= 0.85 or epoch == self.epochs - 1:
            return size
        return 8 * round(size * (0.5 if done < 0.2 else 0.625 if done < 0.55 else 0.75) / 8)

    def as_json(self) -> dict[str, Any]:
        """Return all settings as JSON values."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


def per_set(name: str, values: tuple[T, ...], sets: int) -> tuple[T, ...]:
    """Return one value for each data set.

    Raises
    ------
    ValueError : where neither one value nor one for each is given.
    """
    if len(values) not in (1, sets):
        raise ValueError(f"{name} holds {len(values)} values, for {sets} data sets: give one for all, or one for each")
    return values if len(values) == sets else values * sets
