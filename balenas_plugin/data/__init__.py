"""Image data sets for a one-shot search, split reproducibly in half for the weights and the architecture."""

from __future__ import annotations

from balenas_plugin.data.config import DataConfig
from balenas_plugin.data.device_loader import DeviceLoader
from balenas_plugin.data.image_set import ImageSet, collate
from balenas_plugin.data.search_data import SearchData, load_search_data, load_test_data

__all__ = ["DataConfig", "DeviceLoader", "ImageSet", "SearchData", "collate", "load_search_data", "load_test_data"]
