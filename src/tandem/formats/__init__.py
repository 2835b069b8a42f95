"""Model file formats: GGUF, safetensors, and conversion from Hugging Face folders; no torch."""

from tandem.formats.convert import convert_folder
from tandem.formats.gguf_facts import facts, plain_words
from tandem.formats.gguf_file import GGUFHeader, TensorInfo, read_header
from tandem.formats.gguf_weights import GGUFWeights, folder_from_gguf
from tandem.formats.hf_folder import FOLDER_FILES, PICKLES, folder_writing
from tandem.formats.lora import ADAPTER_FILES, check_adapter, same_manners, write_lora_gguf
from tandem.formats.safetensors_file import BFloat16, Later, SafetensorsFile, write_safetensors
from tandem.formats.tiny import write_tiny_gguf

__all__ = [
    "ADAPTER_FILES",
    "FOLDER_FILES",
    "PICKLES",
    "BFloat16",
    "GGUFHeader",
    "GGUFWeights",
    "Later",
    "SafetensorsFile",
    "TensorInfo",
    "check_adapter",
    "convert_folder",
    "facts",
    "folder_from_gguf",
    "folder_writing",
    "plain_words",
    "read_header",
    "same_manners",
    "write_lora_gguf",
    "write_safetensors",
    "write_tiny_gguf",
]
