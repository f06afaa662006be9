"""Label Studio's side of things: what its machine learning backends are told and asked, without a web framework."""

from __future__ import annotations
