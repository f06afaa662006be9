"""Training encoders for few-shot use: by classes, by episodes, or to be adapted."""

from fewshot.training.recipe import Recipe
from fewshot.training.train import TrainingResult, train_encoder

__all__ = ["Recipe", "TrainingResult", "train_encoder"]
