"""Learn a new image class from one to five images.

The public names, listed in ``__init__.pyi``, are loaded when first used (PEP 562): ``import fewshot`` alone loads
neither torch nor timm nor scikit-learn.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
