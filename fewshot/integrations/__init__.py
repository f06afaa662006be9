"""What other tools speak: Label Studio, CVAT, and the formats that they import."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
