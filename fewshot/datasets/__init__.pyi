from .dataset import Dataset as Dataset
from .lazy_images import RotatedImage as RotatedImage
from .loading import load_dataset as load_dataset
from .omniglot import OneShotRun as OneShotRun
from .omniglot import omniglot_one_shot_runs as omniglot_one_shot_runs
from .overlap import training_overlap as training_overlap
