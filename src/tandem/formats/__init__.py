"""Model file formats: GGUF, safetensors, and conversion from Hugging Face folders; no torch."""

from tandem.formats.convert import convert_folder
from tandem.formats.gguf_facts import facts
from tandem.formats.gguf_file import GGUFHeader, TensorInfo, read_header
from tandem.formats.hf_folder import FOLDER_FILES
from tandem.formats.safetensors_file import SafetensorsFile
from tandem.formats.tiny import write_tiny_gguf

__all__ = [
    "FOLDER_FILES",
    "GGUFHeader",
    "SafetensorsFile",
    "TensorInfo",
    "convert_folder",
    "facts",
    "read_header",
    "write_tiny_gguf",
]
