"""Temperature scaling: from scores to probabilities that are right as often as they say."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
