"""Response bodies of a registry's diagnosis."""

from __future__ import annotations

from pydantic import BaseModel, Field

from fewshot.service.payloads import Example, Label


class CountedShare(BaseModel):
    """A share with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int = Field(description="How many examples it was counted on.")


class SuspectExample(BaseModel):
    """An example that may be of another class."""

    example: Example
    closest: Label = Field(description="The other class that it is closest to.")
    probability: float = Field(description="Of its own class, learned from the other examples.")
    closest_probability: float
    mislabelled: bool = Field(description="Whether it counts as of that class; the others are but the least typical.")


class ExampleThatHurts(BaseModel):
    """An example without which more of the others are recognised."""

    example: Example
    mended: int = Field(description="How many others would then be recognised.")
    broken: int = Field(description="How many no longer.")


class NearDuplicatePair(BaseModel):
    """Two examples that are nearly the same."""

    first: Example
    second: Example
    cosine: float


class ConfusedPair(BaseModel):
    """Two classes that will be confused."""

    label: Label
    taken_for: Label
    rate: float = Field(description="The share of queries of the two to be expected to be taken for the other.")
    counted: int = Field(description="How many of the examples were, each left out.")


class ClassToExtend(BaseModel):
    """A class of which more examples bring most."""

    label: Label
    examples: int = Field(description="How many more.")


class RegistryDiagnosis(BaseModel):
    """What a registry's examples tell about it; each list begins with the gravest and has up to ``limit``."""

    revision: int = Field(description="Of the registry that was diagnosed.")
    diagnosed: int = Field(description="How many classes were looked at: every n-th of very many.")
    accuracy: CountedShare | None = Field(description="To be expected of new ones; null: no example can be left out.")
    left_out: CountedShare | None = Field(description="The share of the examples that the others recognise.")
    advice: str = Field(description="What to add next, in a sentence.")
    add: list[ClassToExtend]
    suspects: list[SuspectExample]
    mislabelled: int = Field(description="How many suspects count as of another class.")
    harmful: list[ExampleThatHurts]
    duplicates: list[NearDuplicatePair]
    duplicate_limit: float = Field(description="The cosine from which a pair is one.")
    confused: list[ConfusedPair]
    one_sided: list[Label] = Field(description="Classes whose examples are far more alike than those of others.")
    too_few: list[Label] = Field(description="Classes of one example that differs.")
    notes: list[str]
