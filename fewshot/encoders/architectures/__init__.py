"""Networks of this project, known to timm once imported: ``timm.create_model("fewshot_pocket", num_classes=0)``."""

from fewshot.encoders.architectures.conv4 import Conv4, fewshot_conv4
from fewshot.encoders.architectures.pocket import PocketNet, fewshot_pocket
from fewshot.encoders.architectures.resnet12 import ResNet12, fewshot_resnet12

__all__ = ["Conv4", "PocketNet", "ResNet12", "fewshot_conv4", "fewshot_pocket", "fewshot_resnet12"]
