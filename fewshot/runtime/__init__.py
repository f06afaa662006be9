"""Recognising with a bundle, one file, by onnxruntime, NumPy and Pillow: without torch, timm and scikit-learn."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
