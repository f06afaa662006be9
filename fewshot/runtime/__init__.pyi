from .bundle_export import BundleReport as BundleReport
from .bundle_export import export_bundle as export_bundle
from .bundle_export import export_classifier as export_classifier
from .bundle_file import is_bundle as is_bundle
from .recognizer import Recognizer as Recognizer
from .web_page import check_web_page as check_web_page
from .web_page import write_web_page as write_web_page

__all__: list[str]
