"""A checkpoint belongs to one training."""

from __future__ import annotations

import pytest

from fewshot.training.checkpoint import check_same


def test_differing_settings_are_listed_with_both_values(tmp_path):
    asked = {"recipe": {"epochs": 2, "seed": 0, "size": 64}, "data": []}
    with pytest.raises(ValueError, match=r"epochs was 1 and is now 2; size was 32 and is now 64\. Repeat it"):
        check_same(asked, {"recipe": {"epochs": 1, "seed": 0, "size": 32}, "data": []}, tmp_path)
    check_same(asked, asked, tmp_path)
