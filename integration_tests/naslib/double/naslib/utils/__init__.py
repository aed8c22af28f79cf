"""Configs and the command line."""

import argparse
import random
import sys
from pathlib import Path

import numpy as np
import torch
import yaml

DEFAULTS = Path(__file__).parents[1] / "defaults" / "darts_defaults.yaml"


class Config(dict):
    """A mapping whose entries are attributes as well; a missing one is an error."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name, value):
        self[name] = value


def load_config(path):
    document = yaml.safe_load(Path(path).read_text())
    return Config({key: Config(value) if isinstance(value, dict) else value for key, value in document.items()})


def load_default_config(config_type="nas"):
    return load_config(DEFAULTS)


def default_argument_parser():
    parser = argparse.ArgumentParser()
    parser.add_argument("--config-file", default=DEFAULTS)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("opts", nargs=argparse.REMAINDER)
    return parser


def parse_args(parser=default_argument_parser(), args=sys.argv[1:]):  # noqa: B008  (the break)
    return parser.parse_args(args)


def get_config_from_args(args=None, config_type="nas"):
    args = args or parse_args()
    config = load_config(args.config_file)
    for key, text in zip(args.opts[::2], args.opts[1::2], strict=True):
        section, _, name = key.rpartition(".")
        if section:
            config[section][name] = type(config[section][name])(text)  # it must be there
        else:
            config[name] = yaml.safe_load(text)
    config.resume = args.resume
    config.search.seed = config.seed
    config.save = f"{config.out_dir}/{config.search_space}/{config.dataset}/{config.optimizer}/{config.seed}"
    for folder in ("search", "eval"):
        Path(config.save, folder).mkdir(parents=True, exist_ok=True)
    return config


def setup_logger(path):
    Path(path).touch()


def set_seed(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def get_dataset_api(search_space, dataset):
    from naslib.utils.get_dataset_api import get_dataset_api

    return get_dataset_api(search_space, dataset)


def get_last_checkpoint(config, search=True):
    last = Path(config.save, "search" if search else "eval", "last_checkpoint")
    return str(last.with_name(last.read_text())) if last.exists() else ""
