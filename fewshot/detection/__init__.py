"""Objects found in pictures: boxes from any proposer, classes from a registry."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
