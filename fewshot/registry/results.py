"""What a registry answers: frozen results, nothing left out in silence."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewshot.media import Modality

NONE_OF_THESE = "none of these"
"""The label of negatives in a ``Conflict``."""

ONE_CLASS = (
    "no probability: with one class there is nothing to compare it with; add another class, or let negatives and a "
    "limit on false accepts tell what is not of it"
)
"""The note of a ``Prediction`` where only one class is registered."""

NO_EXAMPLE = "no probability: the classes have descriptions and no examples; add examples"
"""The note of a ``Prediction`` by texts alone."""

NOT_SURE = "no label: not even a first level of the labels is as sure as roll_up asks"
"""The note of a ``Prediction`` without a label that was not rejected."""


@dataclass(frozen=True)
class Failure:
    """An example that could not be read, and why."""

    source: str
    reason: str


@dataclass(frozen=True)
class Conflict:
    """An example that was to be added to ``label`` while other classes hold it, or it is a negative: not added."""

    source: str
    label: str
    held_by: tuple[str, ...]


@dataclass(frozen=True)
class AddReport:
    """What became of the examples given.

    Attributes
    ----------
    added, duplicates : int
        Stored; left out because their class holds the same file already.
    conflicts : tuple of Conflict
        Left out because another class holds the same file, or it was given as none of these.
    failed : tuple of Failure
        Left out because they could not be read.
    ignored : tuple of str
        Files of a folder that are of another kind, or lie in no class folder.
    repeated : tuple of str
        The names of the duplicates, in no comparison of reports.

    Examples
    --------
    >>> from fewshot import AddReport
    >>> AddReport(added=2) + AddReport(added=1, duplicates=1)
    AddReport(added=3, duplicates=1, conflicts=(), failed=(), ignored=())
    """

    added: int = 0
    duplicates: int = 0
    conflicts: tuple[Conflict, ...] = ()
    failed: tuple[Failure, ...] = ()
    ignored: tuple[str, ...] = ()
    repeated: tuple[str, ...] = field(default=(), compare=False, repr=False)

    def __add__(self, other: AddReport) -> AddReport:
        return AddReport(
            self.added + other.added,
            self.duplicates + other.duplicates,
            self.conflicts + other.conflicts,
            self.failed + other.failed,
            self.ignored + other.ignored,
            self.repeated + other.repeated,
        )


@dataclass(frozen=True)
class Neighbor:
    """A registered example close to a query: its id, class, file name, and closeness as the classifier compares."""

    example: int
    label: str
    source: str
    score: float


@dataclass(frozen=True)
class Prediction:
    """The class recognised in one image, text or sound.

    Attributes
    ----------
    label : str or None
        With ``roll_up`` the deepest level that is sure, as "drink/canned" of "drink/canned/coke". None: none of the
        known classes, where a limit on false accepts was asked for, or no level is sure.
    score : float
        The classifier's closeness; for the default one the cosine to the class prototype, in [-1, 1].
    top : tuple of (label, score)
        The closest classes, closest first.
    nearest : tuple of Neighbor
        Why the answer is what it is: the examples of the closest class (``top[0]``), closest first, then those of the
        next one. They are compared as the classifier does, ``FewShotClassifier.example_scores``.
    unknown_score : float
        Higher is more surely of no class; about -1 to 1, and comparable within one state of a registry only. NaN where
        it was not asked.
    false_accept_bound : float or None
        The expected share of unknown ones that get a label at most; None where every one gets it.
    probability : float or None
        Of the closest class, or with ``roll_up`` of the label, if it is of one of the known ones, in [0, 1]: over many,
        answers given with 0.8 are right in 80 %. ``FewShotClassifier.predict_proba`` says how it is made. None where
        only one class is registered, for a probability is one among alternatives, and where no class has an example.
    note : str or None
        What to know about the answer, in words, such as why it has no probability.
    labels : tuple of (label, probability) or None
        Of a multi-label registry all classes that are answered, most probable first, perhaps none; ``label`` is the
        first, and the scores of ``top`` are probabilities. Else None.

    Examples
    --------
    >>> from fewshot import Prediction
    >>> rejected = Prediction(None, 0.25, (("cup", 0.25), ("pen", 0.1)))  # the closest class, and by how much
    >>> rejected.label or f"unknown, closest to {rejected.top[0][0]}"
    'unknown, closest to cup'
    """

    label: str | None
    score: float
    top: tuple[tuple[str, float], ...]
    nearest: tuple[Neighbor, ...] = ()
    unknown_score: float = math.nan
    false_accept_bound: float | None = None
    probability: float | None = None
    note: str | None = None

    def _repr_html_(self) -> str:
        from fewshot.registry.evaluation_tables import prediction_html

        return prediction_html(self)

    labels: tuple[tuple[str, float], ...] | None = None

    @property
    def all_labels(self) -> tuple[str, ...]:
        """The answered classes: one or none, of a multi-label registry any number."""
        if self.labels is not None:
            return tuple(label for label, _ in self.labels)
        return () if self.label is None else (self.label,)


@dataclass(frozen=True)
class Predictions:
    """The answers for the examples that could be read, with their names, and those that could not.

    ``positions`` are those of the former among all that were given.
    """

    sources: tuple[str, ...]
    predictions: tuple[Prediction, ...]
    failed: tuple[Failure, ...]
    positions: tuple[int, ...] = ()


@dataclass(frozen=True)
class GroupPrediction:
    """The class recognised in a group of images, texts or sounds of one object.

    Attributes
    ----------
    group : str
        Its name.
    label : str or None
        As ``Prediction`` has it. None, too, where too few of the members agree, or none can be read.
    probability : float or None
        Of the closest class, or with ``roll_up`` of the label, calibrated as that of ``Prediction``, which says when it
        is None.
    top : tuple of (label, probability)
        The likeliest classes, likeliest first; where ``probability`` is None these rank only.
    members : tuple of (name, Prediction or Failure)
        What each of them alone is recognised as, or why it cannot be read, in the order given.
    unknown_score : float
        The weighted mean of the members'.
    false_accept_bound : float or None
        The expected share of groups of no class that get a label at most; None where every one gets it.
    agreement : float
        The share of the members that can be read whose own closest class is ``top[0]``, in [0, 1].
    effective_size : float
        As how many independent members they count, 1 to their number.
    note : str or None
        As ``Prediction`` has it.

    Examples
    --------
    >>> from fewshot import GroupPrediction, Prediction
    >>> frames = [(name, Prediction("cup", 0.6, (("cup", 0.6),))) for name in ("1.jpg", "2.jpg")]
    >>> found = GroupPrediction("track 7", "cup", 0.9, (("cup", 0.9), ("pen", 0.1)), tuple(frames), agreement=1.0)
    >>> found.label, len(found.members), found.failed
    ('cup', 2, ())
    """

    group: str
    label: str | None
    probability: float | None
    top: tuple[tuple[str, float], ...]
    members: tuple[tuple[str, Prediction | Failure], ...]
    unknown_score: float = math.nan
    false_accept_bound: float | None = None
    agreement: float = 0.0
    effective_size: float = 0.0
    note: str | None = None

    @property
    def failed(self) -> tuple[Failure, ...]:
        """The members that cannot be read."""
        return tuple(one for _, one in self.members if isinstance(one, Failure))


@dataclass(frozen=True)
class ErasureReport:
    """What was erased from a registry, how that was verified, and what was not reached.

    Attributes
    ----------
    examples, negatives, descriptions, annotations, cached : int
        How many were erased; of annotations what the registry held of them, of ``cached`` embeddings those in caches
        beside the registry.
    searched : tuple of str
        The files whose raw bytes were searched.
    traces : int
        For so many byte strings: hashes, and samples of pictures, vectors, names and labels. Of an erasure that was cut
        short and finished by another call, 0: what was to be erased is not known any more.
    estimated_again : tuple of str
        What was computed from all examples, and how it is made without the erased ones.
    originals : tuple of str
        Files that examples were registered from, and that are still there.
    remaining : tuple of str
        What was found elsewhere, by name, a sentence each.
    not_known : tuple of str
        Where else there may be something of it.
    """

    examples: int = 0
    negatives: int = 0
    descriptions: int = 0
    annotations: int = 0
    cached: int = 0
    searched: tuple[str, ...] = ()
    traces: int = 0
    estimated_again: tuple[str, ...] = ()
    originals: tuple[str, ...] = ()
    remaining: tuple[str, ...] = ()
    not_known: tuple[str, ...] = ()


@dataclass(frozen=True)
class RegistryInfo:
    """What a registry is made of; sizes in bytes, ``encoder`` as given to ``TimmEncoder``."""

    path: str
    encoder: dict[str, Any] = field(hash=False)
    fingerprint: str
    dim: int
    metric: str
    classes: int
    examples: int
    images_kept: int
    bytes: int
    max_false_accept: float | None = None
    classifier: str = "whitened"
    modality: Modality = "image"
    multi_label: bool = False
