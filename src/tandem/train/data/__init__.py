"""Training data: collected, cleaned, split, tokenized, and stored by content; no torch."""

from tandem.train.data.dataset import Dataset, Side, make_dataset, open_dataset
from tandem.train.data.prepare import open_parent, prepare, summary
from tandem.train.data.records import bytes_of
from tandem.train.data.samples import Samples, open_samples
from tandem.train.data.text import Text, open_text

__all__ = [
    "Dataset",
    "Samples",
    "Side",
    "Text",
    "bytes_of",
    "make_dataset",
    "open_dataset",
    "open_parent",
    "open_samples",
    "open_text",
    "prepare",
    "summary",
]
