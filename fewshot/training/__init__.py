"""Training encoders for few-shot use: by classes, by episodes, or to be adapted."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
