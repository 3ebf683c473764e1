"""Corpus to tokens: everything between a config's `data` section and the batches."""

import dataclasses
from typing import Any

from lovecraft_jax.config import Config, DataConfig
from lovecraft_jax.data import corpus, token_cache
from lovecraft_jax.data.cleaning import Cleaning, make_cleaning
from lovecraft_jax.data.corpus import Corpus
from lovecraft_jax.data.splits import PARTS, Splits, split
from lovecraft_jax.data.tokenizer import Encoded, Tokenizer, build_tokenizer
from lovecraft_jax.runtime.errors import UserError

CACHE_FROM_BYTES = 16 << 20  # smaller corpora are cleaned and encoded anew at every start, in a few tenths of a second
UNRELATED_TO_TOKENS = ("corpus", "regime", "seq_len", "batch_size")  # settings of config.data


@dataclasses.dataclass(frozen=True)
class Data:
    """A corpus, cleaned, split and encoded."""

    name: str
    sha256: str
    splits: Splits  # where the tokens came from the cache, its texts are read when they are first asked for
    tokenizer: Tokenizer
    encoded: dict[str, Encoded]  # "train", "valid" and "test"


def prepare(config: Config, recorded: dict[str, Any] | None = None, tokenizer: Tokenizer | None = None) -> Data:
    """Loads the corpus that `config.data` names, and encodes it. To resume a run, pass what its corpus.json `recorded`
    and its tokenizer: then "auto" means the recorded corpus, and another text raises UserError."""
    name = config.data.corpus
    found = corpus.load(recorded["name"] if recorded and name == "auto" else name)
    if recorded and found.sha256 != recorded["sha256"]:
        raise UserError(
            f"data.corpus={name}: another text than this run's (SHA-256 {found.sha256[:12]} here, "
            f"{recorded['sha256'][:12]} there, named {recorded['name']}): give that one, or another --workdir"
        )
    cleaning = tokenizer.cleaning if tokenizer else make_cleaning(config.data.alphabet)
    key = _cache_key(found, cleaning, config.data)
    entry = token_cache.load(key, tokenizer) if key else None
    if entry:
        splits = Splits(entry.tales, entry.counts, lambda: split(found, cleaning, config.data.share).by_tale)
    else:
        splits = split(found, cleaning, config.data.share)
        built = tokenizer or build_tokenizer(config.data.level, splits.join("train"), cleaning)
        encoded = {part: built.encode(splits.join(part)) for part in PARTS}
        entry = token_cache.Entry(built, splits.tales, splits.counts, encoded)
        if key:
            token_cache.save(key, tokenizer, entry)
            entry = token_cache.load(key, tokenizer) or entry  # memory-mapped, which frees the arrays
    return Data(found.name, found.sha256, splits, entry.tokenizer, entry.encoded)


def _cache_key(found: Corpus, cleaning: Cleaning, data: DataConfig) -> str | None:
    """The key of a corpus in the token cache, or None for a corpus that is too small to be cached."""
    if sum(tale.path.stat().st_size for tale in found.tales) < CACHE_FROM_BYTES:
        return None
    # A new setting is part of the key until somebody lists it as unrelated.
    settings = {name: value for name, value in dataclasses.asdict(data).items() if name not in UNRELATED_TO_TOKENS}
    files, row = [tale.name for tale in found.tales], found.dataset
    held_out = [row.valid, row.test] if row else None
    return token_cache.entry_key([found.sha256, files, held_out, cleaning.to_json(), settings])
