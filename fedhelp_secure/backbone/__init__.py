"""The public frozen backbone that turns an image into features; needs the extra `backbone`."""

from __future__ import annotations

from fedhelp_secure.backbone.images import ImagesRefused
from fedhelp_secure.backbone.model import (
    EMBEDDING_WIDTH,
    PATCHES,
    SUMMARY_WIDTH,
    TOKEN_WIDTH,
    Backbone,
    load_backbone,
)
from fedhelp_secure.backbone.weights import WEIGHTS_DIGEST, BackboneUnavailable

__all__ = [
    "EMBEDDING_WIDTH",
    "PATCHES",
    "SUMMARY_WIDTH",
    "TOKEN_WIDTH",
    "WEIGHTS_DIGEST",
    "Backbone",
    "BackboneUnavailable",
    "ImagesRefused",
    "load_backbone",
]
