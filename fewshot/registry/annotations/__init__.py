"""What annotations teach a registry."""

from __future__ import annotations

from fewshot.registry.annotations.annotation_records import Asked, Lesson, Memory, Note, Taught, Vote
from fewshot.registry.annotations.annotation_writer import Lessons
from fewshot.registry.schema import BY_HAND

__all__ = ["BY_HAND", "Asked", "Lesson", "Lessons", "Memory", "Note", "Taught", "Vote"]
