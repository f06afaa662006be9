"""Data sets by name: images with labels, and, where they have them, groups and a split."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
