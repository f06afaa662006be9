"""The HTTP service: REST over registries, a page to teach and test with, and Label Studio's backend."""

from __future__ import annotations

from fewshot.service.app import create_app
from fewshot.service.limits import Limits

__all__ = ["Limits", "create_app"]
