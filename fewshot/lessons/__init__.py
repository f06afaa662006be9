"""What annotations teach a registry."""

from __future__ import annotations

from fewshot.lessons.journal import Lessons
from fewshot.lessons.records import BY_HAND, Lesson, Memory, Note, Taught, Vote

__all__ = ["BY_HAND", "Lesson", "Lessons", "Memory", "Note", "Taught", "Vote"]
