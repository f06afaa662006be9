"""Data sets by name or path: images with labels, and, for some, groups and splits."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
