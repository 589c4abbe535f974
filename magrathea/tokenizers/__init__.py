"""Tokenizers: every Gymnasium space as a fixed number of discrete tokens, and back."""

from magrathea.tokenizers.autoencoder import MaskedAutoencoderTokenizer
from magrathea.tokenizers.base import Tokenizer
from magrathea.tokenizers.composite import CompositeTokenizer
from magrathea.tokenizers.discrete import (
    DiscreteTokenizer,
    MultiBinaryTokenizer,
    MultiDiscreteTokenizer,
    TerminatedTokenizer,
)
from magrathea.tokenizers.numbers import BoxTokenizer, RewardTokenizer
from magrathea.tokenizers.patch import PatchedTokenizer, PatchTokenizer
from magrathea.tokenizers.registry import TOKENIZERS, tokenizer_for, tokenizer_from
from magrathea.tokenizers.report import reconstruction_report, sound_report
from magrathea.tokenizers.sound import SoundTokenizer
from magrathea.tokenizers.text import TextTokenizer

__all__ = [
    "TOKENIZERS",
    "BoxTokenizer",
    "CompositeTokenizer",
    "DiscreteTokenizer",
    "MaskedAutoencoderTokenizer",
    "MultiBinaryTokenizer",
    "MultiDiscreteTokenizer",
    "PatchTokenizer",
    "PatchedTokenizer",
    "RewardTokenizer",
    "SoundTokenizer",
    "TerminatedTokenizer",
    "TextTokenizer",
    "Tokenizer",
    "reconstruction_report",
    "sound_report",
    "tokenizer_for",
    "tokenizer_from",
]
