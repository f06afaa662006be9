"""Learn a new image class from one to five pictures.

The names below are loaded when first used: ``import fewshot`` alone loads neither torch nor timm nor scikit-learn.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "AddReport": "registry",
    "ClassRegistry": "registry",
    "EmbeddingCache": "encoders",
    "Encoder": "encoders",
    "EncoderMismatch": "errors",
    "EncoderNotFound": "errors",
    "FewShotClassifier": "classifiers",
    "FewShotError": "errors",
    "ImageError": "errors",
    "NearestNeighborClassifier": "classifiers",
    "Prediction": "registry",
    "PrototypeClassifier": "classifiers",
    "RegistryError": "errors",
    "TimmEncoder": "encoders",
    "VectorIndex": "index",
    "load_encoder": "encoders",
    "open_image": "images",
}

__all__ = [
    "AddReport",
    "ClassRegistry",
    "EmbeddingCache",
    "Encoder",
    "EncoderMismatch",
    "EncoderNotFound",
    "FewShotClassifier",
    "FewShotError",
    "ImageError",
    "NearestNeighborClassifier",
    "Prediction",
    "PrototypeClassifier",
    "RegistryError",
    "TimmEncoder",
    "VectorIndex",
    "load_encoder",
    "open_image",
]

if TYPE_CHECKING:
    from fewshot.classifiers import FewShotClassifier, NearestNeighborClassifier, PrototypeClassifier
    from fewshot.encoders import EmbeddingCache, Encoder, TimmEncoder, load_encoder
    from fewshot.errors import EncoderMismatch, EncoderNotFound, FewShotError, ImageError, RegistryError
    from fewshot.images import open_image
    from fewshot.index import VectorIndex
    from fewshot.registry import AddReport, ClassRegistry, Prediction


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fewshot' has no attribute {name!r}")
    return getattr(import_module(f"fewshot.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
