"""Request and response bodies of the REST interface."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

# For generated clients; the library checks it, and says more.
NAME_SCHEMA: dict[str, JsonValue] = {"pattern": "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}$"}

_LABEL = "A class label: any text without control characters."
_CONTROL, _INVISIBLE = r"\u0000-\u001f\u007f-\u009f", r"\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff"
# As NAME_SCHEMA, for clients: something to read, and control characters only where they are blanks at the ends.
_NOT_BLANK = r"[^\s\x1c-\x1f]"
LABEL_SCHEMA: dict[str, JsonValue] = {"pattern": rf"^\s*[^{_CONTROL}]*[^\s{_CONTROL}{_INVISIBLE}][^{_CONTROL}]*\s*$"}
Label = Annotated[str, Field(description=_LABEL)]
NewLabel = Annotated[str, Field(max_length=1000, description=_LABEL, json_schema_extra=LABEL_SCHEMA)]
MaxFalseAccept = Annotated[
    float, Field(ge=1e-6, lt=1, description="Largest accepted share of the examples of unknown classes.")
]


class _RequestBody(BaseModel):
    """A request body; an unknown field is refused, as it is most often misspelt, and so is "1" or 1 for true."""

    model_config = ConfigDict(extra="forbid", strict=True)


class NewRegistry(_RequestBody):
    """The name of a registry to create."""

    name: str = Field(
        description="Letters a-z and A-Z, digits, '.', '_' and '-', not beginning with '.'; up to 100.",
        json_schema_extra=NAME_SCHEMA,
    )


class ClassUpdate(_RequestBody):
    """A new label for a class."""

    label: NewLabel
    merge: bool = Field(default=False, description="Merge the classes if there is one of that label already.")


class DescriptionUpdate(_RequestBody):
    """A class in words."""

    text: Annotated[str, Field(max_length=1000, pattern=_NOT_BLANK)] | None = Field(
        description='As "a red tin of beans"; null: remove it.'
    )


class ExampleUpdate(_RequestBody):
    """A new label for an example."""

    label: NewLabel


class ImageList(_RequestBody):
    """Images, sounds or texts in JSON."""

    images: list[str] = Field(
        default_factory=list, min_length=1, description="The bytes of each image, sound or text file in base64."
    )
    texts: list[str] = Field(default_factory=list, min_length=1, description="Texts themselves, in place of files.")


class LabelledImages(ImageList):
    """Images, sounds or texts of one class in JSON."""

    label: NewLabel
    allow_conflict: bool = Field(default=False, description="Add them even if another class holds them already.")


class RejectionUpdate(_RequestBody):
    """The limit on false accepts to store."""

    max_false_accept: MaxFalseAccept | None = Field(description="null: remove it; all get a label again.")


class ClassifierUpdate(_RequestBody):
    """The classifier to choose."""

    classifier: Literal["whitened", "prototype", "nearest", "ridge", "logistic", "discriminant"]


class ChosenClassifier(BaseModel):
    """The classifier that answers."""

    classifier: str = Field(description="Its name, with the parameters that are not the default ones.")


class RegistrySummary(BaseModel):
    """A registry of the list; its counts are null if it cannot be opened."""

    name: str
    classes: int | None
    examples: int | None
    problem: str | None = Field(default=None, description="Why it cannot be opened.")


class RegistryList(BaseModel):
    """All registries."""

    registries: list[RegistrySummary]
    can_create: bool = Field(description="Whether registries can be created: a folder is served.")


class RegistryDetails(BaseModel):
    """A registry."""

    name: str
    encoder: str = Field(description="Name of the encoder of its embeddings; empty before the first example.")
    fingerprint: str = Field(description="Of the encoder: embeddings of equal fingerprints are comparable.")
    dim: int = Field(description="Embedding size d.")
    modality: Literal["image", "text", "audio"] = Field(description="What its examples are.")
    describable: bool | None = Field(
        description="Whether classes can be described in words; null: not known before its encoder is loaded."
    )
    metric: Literal["cosine", "sqeuclidean", "inner_product"]
    classifier: str = Field(description="What answers.")
    multi_label: bool = Field(description="Whether an example may be of several classes.")
    classes: int
    examples: int
    images_kept: int = Field(description="Examples whose bytes are stored in the registry.")
    negatives: int
    bytes: int = Field(description="Size of the file.")
    revision: int = Field(description="Increases with every change.")


class BundleDetails(BaseModel):
    """A bundle, which is read only."""

    name: str
    encoder: str = Field(description="Name of the encoder.")
    fingerprint: str = Field(description="Of the encoder of the registry that was exported.")
    precision: str = Field(description='"float32" or "int8 weights".')
    dim: int = Field(description="Embedding size d.")
    modality: Literal["image"] = Field(description="What it recognises.")
    classes: int
    examples: int = Field(description="That the classes were made of; none is in the bundle.")
    max_false_accept: float | None = Field(description="The stored limit; null: every image gets a label.")
    read_only: Literal[True] = True


class BundleClass(BaseModel):
    """A class of a bundle."""

    label: Label
    examples: int


class BundleClassList(BaseModel):
    """All classes of a bundle, in the order in which they were added."""

    classes: list[BundleClass]


class ClassSummary(BaseModel):
    """A class."""

    label: Label
    examples: int
    example_ids: list[int] = Field(description="The first 12.")
    description: str | None = Field(default=None, description="In words; absent without one.")


class ClassList(BaseModel):
    """All classes, in the order in which they were added."""

    classes: list[ClassSummary]


class RenamedClass(BaseModel):
    """A class after it was renamed or merged."""

    label: Label
    examples: int


class DescribedClass(BaseModel):
    """A class and its description."""

    label: Label
    description: str | None


class RemovedCount(BaseModel):
    """How many examples or negatives were removed."""

    removed: int


class ErasedCount(RemovedCount):
    """How many examples or negatives were erased, and what of them was found elsewhere or cannot be known."""

    traces: int = Field(description="So many byte strings are in no part of the registry's file.")
    estimated_again: list[str]
    remaining: list[str]
    not_known: list[str]


class Example(BaseModel):
    """A registered image, text or sound."""

    id: int
    label: Label
    source: str = Field(description="Name of the file that was added, or the beginning of the text.")


class ExamplePage(BaseModel):
    """A page of examples, by increasing id."""

    examples: list[Example]
    next: int | None = Field(description="For after= of the next page; null: this is the last.")


class Negative(BaseModel):
    """An image, text or sound of none of the classes."""

    id: int
    source: str


class NegativePage(BaseModel):
    """A page of negatives, by increasing id."""

    negatives: list[Negative]
    next: int | None


class ImageConflict(BaseModel):
    """One that was not added, because other classes hold it, or it is a negative."""

    source: str
    held_by: list[str] = Field(description="The classes, or 'none of these'.")
    example_ids: list[int] = Field(description="Its example in each of the classes.")


class FailedImage(BaseModel):
    """One that cannot be read."""

    source: str
    reason: str


class AddResult(BaseModel):
    """The outcome for each example of a request; what was not added is listed."""

    label: Label
    added: int
    example_ids: list[int] = Field(description="Examples of the class with these bytes, those from before included.")
    new_ids: list[int] = Field(description="Those added by this request.")
    duplicates: int = Field(description="Those that the class held already.")
    conflicts: list[ImageConflict]
    failed: list[FailedImage]
    classes: int = Field(description="Number of classes now.")


class AddNegativesResult(BaseModel):
    """The outcome for each example of a request; what was not added is listed."""

    added: int
    new_ids: list[int] = Field(description="Negatives added by this request.")
    duplicates: int
    conflicts: list[ImageConflict]
    failed: list[FailedImage]
    negatives: int = Field(description="Number of negatives now.")


class RankedClass(BaseModel):
    """A class with its score; higher is closer."""

    label: Label
    score: float
    probability: float | None = Field(
        description="In [0, 1], given that it is of a known class; of the closest class only, else null. "
        "null, too, where there is one class only, and so no alternative."
    )


class NearestExample(Example):
    """A registered example close to the query."""

    score: float = Field(description="Its closeness, as the classifier compares; higher is closer.")


class AnsweredLabel(BaseModel):
    """One of the classes of an image of a multi-label registry."""

    label: Label
    probability: float = Field(description="That it is of this class, in [0, 1].")


class ImagePrediction(BaseModel):
    """The prediction for one image, text or sound."""

    source: str = Field(description="Name of the file; 'file 3' for the third one in JSON; the beginning of a text.")
    label: Label | None = Field(
        description="null: none of the known classes. With roll_up the deepest sure level; null, too, if none is."
    )
    probability: float | None = Field(description="Of the label, or without one of the closest class; null: see note.")
    labels: list[AnsweredLabel] | None = Field(
        description="Of a multi-label registry all classes that it is of, most probable first, perhaps none; "
        "`label` is the first, and scores are probabilities. Else null."
    )
    score: float = Field(description="Of the closest class; higher is closer.")
    unknown_score: float | None = Field(
        description="Higher: less likely of a known class; comparable within one revision only."
    )
    false_accept_bound: float | None = Field(
        description="Upper bound on the share of examples of unknown classes that get a label; null: all do."
    )
    top: list[RankedClass]
    nearest: list[NearestExample] = Field(
        description="Examples of the closest class, closest first, then of the next: what the prediction rests on."
    )
    note: str | None = Field(description="What to know about it, such as why there is no probability.")


class UnreadableImage(BaseModel):
    """One that cannot be read; the others are predicted."""

    source: str
    error: str = Field(description="Why, and what to do.")


class PredictionList(BaseModel):
    """The predictions, in the order given."""

    predictions: list[ImagePrediction | UnreadableImage]
    revision: int = Field(description="Of the registry, when they were made; of a bundle 0.")


class ThresholdInfo(BaseModel):
    """The threshold on the unknown score for a limit on false accepts."""

    value: float = Field(description="An example gets no label if its unknown score is at least this.")
    max_false_accept: float = Field(description="The limit.")
    false_accept_bound: float = Field(
        description="Upper bound on the share of examples of unknown classes that get a label."
    )
    met: bool = Field(description="Whether the bound is within the limit.")
    estimated_false_reject: float | None = Field(
        description="Estimated share of examples of known classes that get no label; null: not estimable."
    )
    estimated_from: Literal["classes", "background", "negatives"] = Field(
        description="What the threshold is estimated from: each class left out in turn, a background, or the negatives."
    )
    n_unknown: int = Field(description="How many classes that was; each negative counts as one.")
    center_classes: int | None = Field(
        description="Classes that the encoder's centre, around which scores are taken, was averaged over; null: none."
    )
    required_classes: int = Field(description="How many of them it takes to meet the limit.")
    message: str = Field(description="The above in a sentence, with the remedy where the limit is not met.")


class RejectionSettings(BaseModel):
    """How images of unknown classes are rejected."""

    max_false_accept: float | None = Field(description="The stored limit; null: all get a label.")
    threshold: ThresholdInfo | None = Field(description="For the limit of the query, else for the stored one.")
    problem: str | None = Field(description="Why there is no threshold, and what to do.")
    negatives: int = Field(description="Number of negatives.")


class ServerStatus(BaseModel):
    """Status of the server."""

    status: Literal["ok", "starting", "failing"]
    detail: str | None = None
