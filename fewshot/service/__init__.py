"""The HTTP service: REST over registries, a page to add examples and predict, and Label Studio's backend."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
