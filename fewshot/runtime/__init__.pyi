from .bundle_export import export_bundle as export_bundle
from .bundle_file import is_bundle as is_bundle
from .recognizer import Recognizer as Recognizer

__all__: list[str]
