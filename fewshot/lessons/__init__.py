"""What annotations teach a registry."""

from __future__ import annotations

from fewshot.lessons.journal import Lessons
from fewshot.lessons.records import Asked, Lesson, Memory, Note, Taught, Vote
from fewshot.schema import BY_HAND

__all__ = ["BY_HAND", "Asked", "Lesson", "Lessons", "Memory", "Note", "Taught", "Vote"]
