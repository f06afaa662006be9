from . import server_process as server_process
from .app import create_app as create_app
from .bundle_app import create_bundle_app as create_bundle_app
from .limits import Limits as Limits
