"""What a registry says about its own examples: frozen results, each with the label and the example's id."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fewshot.diagnosis import LearningCurve, Share
    from fewshot.media import Modality


@dataclass(frozen=True)
class DiagnosedExample:
    """A registered example: its id, class and file name, or the beginning of the text."""

    id: int
    label: str
    source: str


@dataclass(frozen=True)
class Suspect:
    """An example that may be of another class than its label says.

    Attributes
    ----------
    example : DiagnosedExample
    closest : str
        The other class that it is closest to.
    probability, closest_probability : float
        Of its own class and of that one, by what was learned from the other examples.
    mislabelled : bool
        Whether it counts as one of ``closest`` by confident learning; the others are but the least typical.
    """

    example: DiagnosedExample
    closest: str
    probability: float
    closest_probability: float
    mislabelled: bool


@dataclass(frozen=True)
class HarmfulExample:
    """An example without which ``mended`` others would be recognised that are not, and ``broken`` no longer."""

    example: DiagnosedExample
    mended: int
    broken: int


@dataclass(frozen=True)
class NearDuplicate:
    """Two examples that are nearly the same; the one that came later is ``second``."""

    first: DiagnosedExample
    second: DiagnosedExample
    cosine: float

    @property
    def across_classes(self) -> bool:
        """Whether they are of two classes."""
        return self.first.label != self.second.label


@dataclass(frozen=True)
class ConfusedClasses:
    """Two classes, examples of which will be taken for the other.

    Attributes
    ----------
    label, taken_for : str
        The first is taken for the second more often than the reverse.
    rate : float
        The share of queries of the two to be expected to be taken for the other.
    counted : int
        How many left-out examples were.
    """

    label: str
    taken_for: str
    rate: float
    counted: int


@dataclass(frozen=True)
class ClassDiagnosis:
    """A class.

    Attributes
    ----------
    label : str
    examples : int
    distinct : int
        Of these, near-duplicates counted once.
    accuracy : Share or None
        Of its examples, each left out, and corrected as the registry's; None where none can be.
    gain : float
        The accuracy over all classes to be gained by one more example of it, in [0, 1].
    add : int
        How many more of it the plan asks for.
    one_sided : bool
        Whether its examples are far more alike than those of other classes.
    """

    label: str
    examples: int
    distinct: int
    accuracy: Share | None
    gain: float
    add: int
    one_sided: bool

    @property
    def too_few(self) -> bool:
        """Whether it has one distinct example, so that nothing can be left out."""
        return self.distinct < 2


@dataclass(frozen=True)
class AdditionPlan:
    """What to add next.

    Attributes
    ----------
    classes : tuple of (label, count)
        How many more examples of which classes; most first.
    gain : float
        The accuracy to be gained by them.
    rest : float
        By one more of each other class.
    doubled : float
        By as many examples of every class again: whether it is enough as it is.
    """

    classes: tuple[tuple[str, int], ...]
    gain: float
    rest: float
    doubled: float

    @property
    def examples(self) -> int:
        """How many in all."""
        return sum(count for _, count in self.classes)

    @property
    def enough(self) -> bool:
        """Whether twice the examples would bring less than half a point."""
        return self.doubled < 0.005


@dataclass(frozen=True)
class Diagnosis:
    """What ``ClassRegistry.diagnose`` has found; its lists begin with the gravest.

    Attributes
    ----------
    classes, examples : int
        How many there are.
    diagnosed : int
        How many of the classes were looked at: every n-th of very many.
    modality : {"image", "text", "audio"}
    classifier : str
        By which accuracy, suspects and confused classes are.
    revision : int
        Of the registry.
    left_out : Share or None
        The share of the examples that was recognised by the others, each class being learned from fewer than there are;
        None where no example can be left out.
    accuracy : Share or None
        What is to be expected of new examples with all that there are: ``left_out``, with as many errors
        fewer as the learning curve says.
    curve : LearningCurve or None
        Accuracy from fewer examples, and how it goes on.
    suspects : tuple of Suspect
        The tenth that is likeliest mislabelled, and at least ten, of those that another class is closest to.
    harmful : tuple of HarmfulExample
        Those without which at least two more of the others would be recognised.
    duplicates : tuple of NearDuplicate
    duplicate_limit : float
        The cosine from which two are.
    confused : tuple of ConfusedClasses
    per_class : tuple of ClassDiagnosis
        In the registry's order.
    plan : AdditionPlan or None
    notes : tuple of str
        What to know about it, such as what was not looked at.
    """

    classes: int
    examples: int
    diagnosed: int
    modality: Modality
    classifier: str
    revision: int
    left_out: Share | None
    accuracy: Share | None
    curve: LearningCurve | None
    suspects: tuple[Suspect, ...]
    harmful: tuple[HarmfulExample, ...]
    duplicates: tuple[NearDuplicate, ...]
    duplicate_limit: float
    confused: tuple[ConfusedClasses, ...]
    per_class: tuple[ClassDiagnosis, ...]
    plan: AdditionPlan | None
    notes: tuple[str, ...]

    @property
    def mislabelled(self) -> tuple[Suspect, ...]:
        """The suspects that count as of another class."""
        return tuple(one for one in self.suspects if one.mislabelled)

    @property
    def one_sided(self) -> tuple[ClassDiagnosis, ...]:
        """The classes whose examples are far more alike than those of others, or near-duplicates all."""
        return tuple(one for one in self.per_class if one.one_sided)

    @property
    def advice(self) -> str:
        """What to add next, in a sentence."""
        if self.plan is None:
            return "add a second example of a class: nothing can be said before one can be left out"
        if self.plan.enough:
            return "enough: twice as many examples of every class would bring less than half a point"
        n, count = self.plan.examples, len(self.plan.classes)
        them = "this class" if count == 1 else f"these {count} classes"
        if count == len(self.per_class):
            them = f"all {count} classes" if count > 2 else "both classes"
        more = f"{n} more {'example' if n == 1 else 'examples'} of {them}: about {_points(self.plan.gain)}"
        if count == len(self.per_class):
            return more
        if self.plan.rest < 0.005:
            return f"{more}; the rest is settled"
        others = len(self.per_class) - count
        each = "the other class" if others == 1 else f"each of the other {others}"
        return f"{more}; one more of {each}: about {_points(self.plan.rest)}"


def _points(gain: float) -> str:
    shown = f"{100 * gain:.0f}" if gain >= 0.095 else f"{100 * gain:.1f}".removesuffix(".0")
    return f"+{shown} {'point' if shown == '1' else 'points'}"
