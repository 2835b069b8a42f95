"""Nets: the models that are trained, as single-device code."""

from tandem.train.nets.config import NetConfig, config_json, read_config
from tandem.train.nets.folder import load_folder
from tandem.train.nets.generate import greedy
from tandem.train.nets.llama import Llama
from tandem.train.nets.lora import adapter_off, adapter_state, add_lora, is_trainable, merged_state

__all__ = [
    "Llama",
    "NetConfig",
    "adapter_off",
    "adapter_state",
    "add_lora",
    "config_json",
    "greedy",
    "is_trainable",
    "load_folder",
    "merged_state",
    "read_config",
]
