"""Response bodies of predictions for groups."""

from __future__ import annotations

from pydantic import BaseModel, Field

from fewshot.service.payloads import Label, UnreadableImage


class GroupMember(BaseModel):
    """What a member of a group is recognised as alone."""

    source: str = Field(description="Name of the file; 'file 3' for the third one in JSON; the beginning of a text.")
    label: Label = Field(description="Its closest class.")
    probability: float | None
    unknown_score: float | None


class LikelyClass(BaseModel):
    """A class with its probability."""

    label: Label
    probability: float


class GroupAnswer(BaseModel):
    """The prediction for a group of images, texts or sounds of one object."""

    label: Label | None = Field(description="null: none of the known classes, or too few members agree.")
    probability: float | None = Field(description="Of the label, or without one of the likeliest class.")
    unknown_score: float | None = Field(description="The weighted mean of the members'.")
    false_accept_bound: float | None = Field(
        description="Upper bound on the share of groups of unknown classes that get a label; null: all do."
    )
    agreement: float = Field(description="The share of the members whose closest class is the likeliest one.")
    effective_size: float = Field(description="As how many independent members they count: near-copies count as one.")
    top: list[LikelyClass]
    members: list[GroupMember | UnreadableImage]
    note: str | None = Field(description="What to know about it, such as why there is no probability.")
    revision: int = Field(description="Of the registry, when it was made.")
