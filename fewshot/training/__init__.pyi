from .encoder_folder import timm_config as timm_config
from .recipe import Recipe as Recipe
from .train import TrainingResult as TrainingResult
from .train import train_encoder as train_encoder
from .workers import Workers as Workers
from .workers import worker_count as worker_count
