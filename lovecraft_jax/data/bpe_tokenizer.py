"""Byte-pair encoding (Sennrich et al. 2016) over UTF-8 bytes: tokens are frequent pieces of pretokens.

The `tokenizers` library learns the merges from the training text and applies them; a run saves its JSON, so that other
runtimes can read it. Every cleaned text has an encoding, since all bytes that it can have are tokens.
"""

import dataclasses
import functools
import itertools
import json

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from lovecraft_jax.data.characters import lone_surrogates
from lovecraft_jax.data.cleaning import Cleaning
from lovecraft_jax.data.encoded import Cut, Encoded, Prompt, Spelled, smallest_uint
from lovecraft_jax.data.pretokens import AT_ONCE, PATTERN, Pretokens, expand, split, split_prompt
from lovecraft_jax.runtime.errors import UserError

UNUSED = "<unused>"
"""The token of UNKNOWN_ID, which no text has."""


@dataclasses.dataclass(frozen=True)
class BpeTokenizer:
    """A token is a sequence of bytes. `library`: the JSON of the `tokenizers` library."""

    library: str
    cleaning: Cleaning
    level: str = "bpe"

    @classmethod
    def of(cls, train_text: str, cleaning: Cleaning, vocab_size: int) -> "BpeTokenizer":
        """The tokenizer that a cleaned training text gives, always the same, with up to `vocab_size` ids. Raises
        UserError where these are too few for the alphabet."""
        letters = byte_characters()
        alphabet = [letters[byte] for byte in (range(256) if cleaning.keep is None else cleaning.keep.encode())]
        if vocab_size < (least := 1 + len(alphabet)):
            raise UserError(
                f"config.data.vocab_size={vocab_size} with level='bpe': expected at least {least}, an id for each byte "
                f"that a text can have (alphabet {cleaning.alphabet}); give more"
            )
        library = tokenizers.Tokenizer(models.BPE())
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        library.pre_tokenizer = byte_level  # of pretokens: `split` is faster than the library with PATTERN
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=[UNUSED],
            initial_alphabet=alphabet,
            show_progress=False,
        )
        library.train_from_iterator(split(train_text), trainer)
        pretokens = pre_tokenizers.Split(tokenizers.Regex(PATTERN), "isolated")
        library.pre_tokenizer = pre_tokenizers.Sequence([pretokens, byte_level])
        library.decoder = decoders.ByteLevel()
        saved = json.loads(library.to_str())
        saved["added_tokens"] = []  # or the library would find UNUSED in texts
        return cls(json.dumps(saved, ensure_ascii=False, separators=(",", ":")), cleaning)

    @classmethod
    def loads(cls, saved: dict, cleaning: Cleaning) -> "BpeTokenizer":
        return cls(json.dumps(saved["tokenizer"], ensure_ascii=False, separators=(",", ":")), cleaning)

    @property
    def size(self) -> int:
        return len(self._bytes)

    @functools.cached_property
    def start_id(self) -> int:
        return int(self._tokenizer.encode("\n").ids[0])

    def encode(self, text: str) -> Encoded:
        pretokens = Pretokens(text)
        types, encode = pretokens.types, self._tokenizer.encode_batch
        # An encoding of the library takes a kilobyte and more.
        batches = (types[start : start + AT_ONCE] for start in range(0, len(types), AT_ONCE))
        ids_of_types = [encoding.ids for batch in batches for encoding in encode(batch)]
        return Encoded(expand(ids_of_types, pretokens.index_N, smallest_uint(self.size)), len(text), 0.0)

    def encode_prompt(self, text: str) -> Prompt:
        pieces = [encoding.ids for encoding in self._tokenizer.encode_batch(split_prompt(text))]
        ids = np.array([self.start_id, *itertools.chain(*pieces)], np.int32)
        cuts = []
        for kept in range(len(ids) - len(pieces[-1]), len(ids)) if pieces else ():
            begun = self.generated_bytes(ids[kept:])
            allowed_V = np.array([token.startswith(begun) for token in self._bytes])
            if allowed_V.any():
                cuts.append(Cut(kept, begun, allowed_V))
        return Prompt(ids, tuple(cuts))

    def decode(self, ids: np.ndarray, spelled: Spelled | None = None) -> str:
        return self.generated_bytes(ids).decode(errors="replace")

    def generated_bytes(
        self, ids: np.ndarray, seed: tuple[int, ...] = (), start: int = 0, temperature: float = 1.0
    ) -> bytes:
        # A join needs 80 bytes of memory for each id: a part of them at a time.
        pieces = (ids[begin : begin + AT_ONCE] for begin in range(0, len(ids), AT_ONCE))
        return b"".join([b"".join([self._bytes[i] for i in piece]) for piece in pieces])

    def lengths(self, encoded: Encoded) -> np.ndarray:
        return self._lengths[encoded.ids]

    def unseen(self, text: str) -> list[str]:
        return lone_surrogates(text)

    def dumps(self) -> str:
        rules = dataclasses.asdict(self.cleaning)
        saved = {"level": self.level, "tokenizer": json.loads(self.library), "cleaning": rules}
        return json.dumps(saved, ensure_ascii=False, indent=1)

    @functools.cached_property
    def _tokenizer(self) -> tokenizers.Tokenizer:
        return tokenizers.Tokenizer.from_str(self.library)

    @functools.cached_property
    def _bytes(self) -> list[bytes]:
        """The bytes of each id."""
        byte_of = {char: byte for byte, char in enumerate(byte_characters())}
        by_id = sorted(self._tokenizer.get_vocab().items(), key=lambda item: item[1])
        return [b"" if token == UNUSED else bytes(byte_of[char] for char in token) for token, _ in by_id]

    @functools.cached_property
    def _lengths(self) -> np.ndarray:
        """The characters that begin in each id: its bytes but for those that continue a character."""
        return np.array([sum(byte & 0xC0 != 0x80 for byte in token) for token in self._bytes])


def byte_characters() -> list[str]:
    """The character that stands for each byte in the library's JSON, as in GPT-2: itself if it can be seen."""
    visible = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(byte if byte in visible else next(others)) for byte in range(256)]
