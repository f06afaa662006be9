"""Reading images safely: from files, bytes and arrays, and from folders and zips of them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
