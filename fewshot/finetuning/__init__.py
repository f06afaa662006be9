"""Fine-tuning an encoder on the few pictures of the classes that it is to tell apart."""

from fewshot.finetuning.choice import Choice
from fewshot.finetuning.classifier import FineTuneClassifier

__all__ = ["Choice", "FineTuneClassifier"]
