"""Fine-tuning an encoder on the few pictures of the classes that it is to tell apart."""

from fewshot.finetuning.choice import Choice
from fewshot.finetuning.classifier import FineTuneClassifier
from fewshot.finetuning.episodes import FineTuningResult, run_finetuning

__all__ = ["Choice", "FineTuneClassifier", "FineTuningResult", "run_finetuning"]
