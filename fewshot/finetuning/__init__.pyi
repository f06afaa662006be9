from .classifier import FineTuneClassifier as FineTuneClassifier
from .episode_runner import FineTuningResult as FineTuningResult
from .episode_runner import run_finetuning as run_finetuning
from .registry_encoder import tune_registry as tune_registry
from .search import Choice as Choice
