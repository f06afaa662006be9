"""Learn a new image class from one to five pictures.

The names below are loaded when first used: ``import fewshot`` alone loads neither torch nor timm nor scikit-learn.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "AddReport": "registry",
    "AlphaTIMClassifier": "classifiers",
    "BDCSPNClassifier": "classifiers",
    "BenchmarkResult": "benchmark",
    "CacheClassifier": "classifiers",
    "ClassRegistry": "registry",
    "CosineHeadClassifier": "classifiers",
    "Dataset": "datasets",
    "DistributionCalibrationClassifier": "classifiers",
    "DomainAdapter": "domain",
    "EmbeddingCache": "encoders",
    "Encoder": "encoders",
    "EncoderMismatch": "errors",
    "EncoderNotFound": "errors",
    "EpisodeSampler": "episodes",
    "Episodes": "episodes",
    "FewShotClassifier": "classifiers",
    "FewShotError": "errors",
    "FineTuneClassifier": "finetuning",
    "FineTuningResult": "finetuning",
    "ImageError": "errors",
    "LaplacianShotClassifier": "classifiers",
    "LinearDiscriminantClassifier": "classifiers",
    "LogisticRegressionClassifier": "classifiers",
    "MahalanobisClassifier": "classifiers",
    "MatchingClassifier": "classifiers",
    "NearestNeighborClassifier": "classifiers",
    "PTMAPClassifier": "classifiers",
    "Prediction": "registry",
    "PrototypeClassifier": "classifiers",
    "Recipe": "training",
    "RegistryError": "errors",
    "RidgeClassifier": "classifiers",
    "SimpleShotClassifier": "classifiers",
    "SoftKMeansClassifier": "classifiers",
    "TIMClassifier": "classifiers",
    "TimmEncoder": "encoders",
    "TrainingResult": "training",
    "TransductiveFineTuningClassifier": "classifiers",
    "VectorIndex": "index",
    "load_dataset": "datasets",
    "load_encoder": "encoders",
    "open_image": "images",
    "run_benchmark": "benchmark",
    "run_finetuning": "finetuning",
    "train_encoder": "training",
}

__all__ = [
    "AddReport",
    "AlphaTIMClassifier",
    "BDCSPNClassifier",
    "BenchmarkResult",
    "CacheClassifier",
    "ClassRegistry",
    "CosineHeadClassifier",
    "Dataset",
    "DistributionCalibrationClassifier",
    "DomainAdapter",
    "EmbeddingCache",
    "Encoder",
    "EncoderMismatch",
    "EncoderNotFound",
    "EpisodeSampler",
    "Episodes",
    "FewShotClassifier",
    "FewShotError",
    "FineTuneClassifier",
    "FineTuningResult",
    "ImageError",
    "LaplacianShotClassifier",
    "LinearDiscriminantClassifier",
    "LogisticRegressionClassifier",
    "MahalanobisClassifier",
    "MatchingClassifier",
    "NearestNeighborClassifier",
    "PTMAPClassifier",
    "Prediction",
    "PrototypeClassifier",
    "Recipe",
    "RegistryError",
    "RidgeClassifier",
    "SimpleShotClassifier",
    "SoftKMeansClassifier",
    "TIMClassifier",
    "TimmEncoder",
    "TrainingResult",
    "TransductiveFineTuningClassifier",
    "VectorIndex",
    "load_dataset",
    "load_encoder",
    "open_image",
    "run_benchmark",
    "run_finetuning",
    "train_encoder",
]

if TYPE_CHECKING:
    from fewshot.benchmark import BenchmarkResult, run_benchmark
    from fewshot.classifiers import (
        AlphaTIMClassifier,
        BDCSPNClassifier,
        CacheClassifier,
        CosineHeadClassifier,
        DistributionCalibrationClassifier,
        FewShotClassifier,
        LaplacianShotClassifier,
        LinearDiscriminantClassifier,
        LogisticRegressionClassifier,
        MahalanobisClassifier,
        MatchingClassifier,
        NearestNeighborClassifier,
        PrototypeClassifier,
        PTMAPClassifier,
        RidgeClassifier,
        SimpleShotClassifier,
        SoftKMeansClassifier,
        TIMClassifier,
        TransductiveFineTuningClassifier,
    )
    from fewshot.datasets import Dataset, load_dataset
    from fewshot.domain import DomainAdapter
    from fewshot.encoders import EmbeddingCache, Encoder, TimmEncoder, load_encoder
    from fewshot.episodes import Episodes, EpisodeSampler
    from fewshot.errors import EncoderMismatch, EncoderNotFound, FewShotError, ImageError, RegistryError
    from fewshot.finetuning import FineTuneClassifier, FineTuningResult, run_finetuning
    from fewshot.images import open_image
    from fewshot.index import VectorIndex
    from fewshot.registry import AddReport, ClassRegistry, Prediction
    from fewshot.training import Recipe, TrainingResult, train_encoder


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fewshot' has no attribute {name!r}")
    return getattr(import_module(f"fewshot.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
