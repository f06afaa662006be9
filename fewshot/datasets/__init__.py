"""Data sets by name: pictures with labels, and, where they have them, groups and a split."""

from fewshot.datasets.base import Dataset
from fewshot.datasets.loading import load_dataset
from fewshot.datasets.omniglot import OneShotRun, omniglot_one_shot_runs
from fewshot.datasets.overlap import overlap
from fewshot.datasets.sources import RotatedImage

__all__ = ["Dataset", "OneShotRun", "RotatedImage", "load_dataset", "omniglot_one_shot_runs", "overlap"]
