"""Encoders: frozen networks that turn pictures into embeddings."""

from fewshot.encoders.base import Encoded, Encoder, encode_valid
from fewshot.encoders.cache import EmbeddingCache
from fewshot.encoders.timm_encoder import TimmEncoder, load_encoder

__all__ = ["EmbeddingCache", "Encoded", "Encoder", "TimmEncoder", "encode_valid", "load_encoder"]
