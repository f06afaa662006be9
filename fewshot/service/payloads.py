"""What is sent and answered, in the words of the REST interface."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

# Told to generated clients; the library checks it, and says more.
NAME_SCHEMA: dict[str, JsonValue] = {"pattern": "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}$"}

Label = Annotated[str, Field(description="A class's name: anything to read, without control characters.")]
NewName = Annotated[
    str,
    Field(
        max_length=1000,
        description="A class's name: anything to read, without control characters.",
        json_schema_extra={"pattern": "\\S"},
    ),
]
Share = Annotated[float, Field(ge=1e-6, lt=1, description="Largest share of unknown pictures to be given a label.")]


class _Asked(BaseModel):
    """A request: what it holds beyond the known fields is refused, as it is most often misspelt."""

    model_config = ConfigDict(extra="forbid")


class Created(_Asked):
    """The name of a new registry."""

    name: str = Field(
        description="Letters a-z and A-Z, digits, '.', '_' and '-', not beginning with '.'; up to 100.",
        json_schema_extra=NAME_SCHEMA,
    )


class NewLabel(_Asked):
    """Another name for a class."""

    label: NewName
    merge: bool = Field(default=False, description="Join the classes if there is one of that name already.")


class Moved(_Asked):
    """The class that an example is of."""

    label: NewName


class PictureList(_Asked):
    """Pictures in JSON."""

    images: list[str] = Field(min_length=1, description="The files' bytes, each in base64.")


class LabelledPictures(PictureList):
    """Pictures of a class in JSON."""

    label: NewName
    allow_conflict: bool = Field(default=False, description="Accept pictures that another class holds already.")


class Level(_Asked):
    """The limit on false accepts to be kept."""

    max_false_accept: Share | None = Field(description="null: forget it; every picture gets a label again.")


class RegistryName(BaseModel):
    """A registry among others; its counts are null if it cannot be opened."""

    name: str
    classes: int | None
    examples: int | None
    problem: str | None = Field(default=None, description="Why it cannot be opened.")


class RegistryList(BaseModel):
    """All registries."""

    registries: list[RegistryName]
    can_create: bool = Field(description="Whether others can be made: a folder is served.")


class RegistryAbout(BaseModel):
    """What a registry is made of."""

    name: str
    encoder: str = Field(description="What turned pictures into vectors; empty before the first.")
    fingerprint: str
    dim: int = Field(description="Size d of the vectors.")
    metric: Literal["cosine", "sqeuclidean", "inner_product"]
    classes: int
    examples: int
    images_kept: int
    negatives: int
    bytes: int = Field(description="Of the file.")
    revision: int = Field(description="Rises with every change.")


class ClassAbout(BaseModel):
    """A class."""

    label: Label
    examples: int
    example_ids: list[int] = Field(description="The first 12.")


class ClassList(BaseModel):
    """All classes, in the order in which they came."""

    classes: list[ClassAbout]


class Renamed(BaseModel):
    """A class after it was renamed."""

    label: Label
    examples: int


class Removed(BaseModel):
    """What was removed."""

    removed: int


class Example(BaseModel):
    """A registered picture."""

    id: int
    label: Label
    source: str = Field(description="The file's name when it came.")


class ExamplePage(BaseModel):
    """Some examples, by rising ids."""

    examples: list[Example]
    next: int | None = Field(description="For after= of the next page; null: there is none.")


class Negative(BaseModel):
    """A picture that is none of the classes."""

    id: int
    source: str


class NegativePage(BaseModel):
    """Some negatives, by rising ids."""

    negatives: list[Negative]
    next: int | None


class ConflictAbout(BaseModel):
    """A picture that was not added, because other classes hold it, or it is one of the negatives."""

    source: str
    held_by: list[str] = Field(description="The classes, or 'none of these'.")
    example_ids: list[int] = Field(description="The example that it is in each of them.")


class Failed(BaseModel):
    """A picture that cannot be read."""

    source: str
    reason: str


class NegativesAdded(BaseModel):
    """What became of pictures that are none of the classes."""

    added: int
    new_ids: list[int] = Field(description="Of the negatives that this request has added.")
    duplicates: int
    conflicts: list[ConflictAbout]
    failed: list[Failed]
    negatives: int = Field(description="How many there are now.")


class Added(BaseModel):
    """What became of pictures for a class."""

    label: Label
    added: int
    example_ids: list[int] = Field(description="Of the pictures that the class now holds, those held before included.")
    new_ids: list[int] = Field(description="Those of them that this request has added.")
    duplicates: int = Field(description="Pictures that the class held already.")
    conflicts: list[ConflictAbout]
    failed: list[Failed]
    classes: int = Field(description="How many there are now.")


class Ranked(BaseModel):
    """A class, and how close it is; higher is closer."""

    label: Label
    score: float
    probability: float | None = Field(
        description="In [0, 1], if the picture is of one of the known classes; of the closest one only, else null."
    )


class Near(Example):
    """A registered picture close to the one asked about."""

    score: float


class Recognised(BaseModel):
    """The answer for a picture."""

    source: str = Field(description="The file's name; 'image 3' for the third one in JSON.")
    label: Label | None = Field(description="null: none of the known classes.")
    score: float = Field(description="Of the closest class; higher is closer.")
    unknown_score: float | None = Field(
        description="Higher: less likely of a class; comparable within a revision only."
    )
    false_accept_bound: float | None = Field(
        description="Share of unknown pictures that get a label at most, as far as that can be promised; null: all do."
    )
    top: list[Ranked]
    nearest: list[Near]


class Unreadable(BaseModel):
    """A picture that cannot be read; the others are answered."""

    source: str
    failed: str = Field(description="Why, and what to do.")


class PredictionList(BaseModel):
    """The answers, in the order of the pictures."""

    predictions: list[Recognised | Unreadable]
    revision: int = Field(description="The registry's when it was asked.")


class Promise(BaseModel):
    """What a limit on false accepts promises in this registry as it is."""

    asked: float = Field(description="The limit.")
    false_accept_bound: float = Field(description="The share of unknown pictures that is given a label at most.")
    met: bool = Field(description="Whether that is no more than was asked.")
    estimated_false_reject: float | None = Field(description="Expected share of known pictures refused; null: unknown.")
    threshold: float = Field(description="A picture whose unknown score is this or more is given no label.")
    standing_for: Literal["classes", "background"] = Field(description="What the unknown pictures were estimated from.")
    n_unknown: int = Field(description="How many classes that was.")
    center: int | None = Field(description="Classes of the encoder's centre, which scores heed, too; null: none.")
    needed: int = Field(description="How many it takes for the promise to be kept.")
    text: str = Field(description="The promise in a sentence, with the remedy where it is not kept.")


class Unknowns(BaseModel):
    """What is done about pictures of no class."""

    max_false_accept: float | None = Field(description="The limit kept; null: every picture gets a label.")
    promise: Promise | None = Field(description="Of the limit asked about, else of the one kept.")
    problem: str | None = Field(description="Why nothing can be promised, and what to do.")
    negatives: int


class State(BaseModel):
    """How the server is."""

    status: Literal["ok", "starting", "failing"]
    detail: str | None = None
