"""Corpus to tokens: everything between a config's `data` section and the batches."""

import dataclasses
from typing import Any

import tokenizers

from lovecraft_jax.config import Config, DataConfig
from lovecraft_jax.data import corpus, token_cache
from lovecraft_jax.data.batches import Batches
from lovecraft_jax.data.bpe_dropout import BpeDropout
from lovecraft_jax.data.bpe_tokenizer import BpeTokenizer
from lovecraft_jax.data.cleaning import Cleaning, make_cleaning
from lovecraft_jax.data.corpus import RULE, Corpus
from lovecraft_jax.data.encoded import Encoded
from lovecraft_jax.data.splits import PARTS, REPEATED, Splits, describe, split
from lovecraft_jax.data.tokenizer import Tokenizer, build_tokenizer
from lovecraft_jax.runtime.console import log
from lovecraft_jax.runtime.errors import UserError

CACHE_FROM_BYTES = 16 << 20  # smaller corpora are cleaned and encoded anew at every start, in a few tenths of a second
LIBRARY = tokenizers.__version__  # another one may learn other merges
UNRELATED_TO_TOKENS = ("corpus", "bpe_dropout", "regime", "seq_len", "batch_size")  # settings of config.data


@dataclasses.dataclass(frozen=True)
class Data:
    """A corpus, cleaned, split and encoded."""

    name: str
    sha256: str
    path: str | None  # as in Corpus
    splits: Splits  # where the tokens came from the cache, its texts are read when they are first asked for
    tokenizer: Tokenizer
    encoded: dict[str, Encoded]  # "train", "valid" and "test"
    bpe_dropout: BpeDropout | None = None  # what training reads instead of encoded["train"], other ids in each epoch


def prepare(config: Config, recorded: dict[str, Any] | None = None, tokenizer: Tokenizer | None = None) -> Data:
    """Loads the corpus that `config.data` names, and encodes it. To resume a run, pass what its corpus.json `recorded`
    and its tokenizer: then "auto" means the recorded corpus, and another text raises UserError."""
    rule = recorded.get("split_rule", 1) if recorded else RULE
    found = _find_again(config.data.corpus, recorded, rule) if recorded else corpus.load(config.data.corpus)
    cleaning = tokenizer.cleaning if tokenizer else make_cleaning(config.data.alphabet)
    key = _cache_key(found, cleaning, config.data, rule)
    entry = token_cache.load(key, tokenizer) if key else None
    if entry:
        again = lambda: split(found, cleaning, config.data.share, rule).by_tale  # noqa: E731
        splits = Splits(entry.tales, entry.counts, entry.facts, again)
    else:
        splits = split(found, cleaning, config.data.share, rule)
        built = tokenizer or build_tokenizer(config.data, splits.join("train"), cleaning)
        encoded = {part: built.encode(splits.join(part)) for part in PARTS}
        entry = token_cache.Entry(built, splits.tales, splits.counts, splits.facts, encoded)
        if key:
            token_cache.save(key, tokenizer, entry)
            entry = token_cache.load(key, tokenizer) or entry  # memory-mapped, which frees the arrays
    if not recorded and max(splits.facts.get("repeated", {}).values(), default=0) > REPEATED:
        log(
            f"WARNING: data.corpus={found.name}: {describe(splits.facts)}, which makes its scores too good: copies, a "
            "header that many files have, or a text that repeats itself"
        )
    dropout, probability = None, config.data.bpe_dropout
    if probability and isinstance(entry.tokenizer, BpeTokenizer):
        tokens = recorded.get("tokens_with_dropout") if recorded else None
        dropout = BpeDropout(entry.tokenizer, entry.encoded["train"].ids, probability, config.seed, tokens)
    return Data(found.name, found.sha256, found.path, splits, entry.tokenizer, entry.encoded, dropout)


def make_batches(config: Config, data: Data) -> Batches:
    """Returns the batches on which `config` trains. Raises UserError where the text is too short for one."""
    ids, section = data.encoded["train"].ids, config.data
    return Batches(ids, section.batch_size, section.seq_len, section.regime, config.seed, data.bpe_dropout)


def check_scored_parts(config: Config, data: Data) -> None:
    """Raises UserError where valid or test has no token to score, or valid fewer than train.eval_rows."""
    for part in ("valid", "test"):
        if not len(data.encoded[part].ids):
            raise UserError(
                f"data.corpus={data.name}: {part} has only rare words, which data.rare={config.data.rare} leaves out; "
                "give a longer text, or data.rare=spell"
            )
    tokens, rows = len(data.encoded["valid"].ids), config.train.eval_rows
    if rows > tokens:
        raise UserError(f"config.train.eval_rows={rows}: valid has {tokens:,} tokens; use fewer, or leave it out")


def _find_again(name: str, recorded: dict[str, Any], rule: int) -> Corpus:
    """The text of a run: from where the config now says it is, if that is another place than at the run's start; else
    from where it was then or, if it is gone from there, by its name."""
    known, place = name in ("auto", recorded["name"]), recorded.get("path", "")
    found = corpus.load((place if corpus.exists(place) else recorded["name"]) if known else name, rule)
    if found.sha256 != recorded["sha256"]:
        raise UserError(
            f"data.corpus={name}: another text than this run's (SHA-256 {found.sha256[:12]} here, "
            f"{recorded['sha256'][:12]} there, named {recorded['name']}): give that one, or another workdir"
        )
    return dataclasses.replace(found, name=recorded["name"]) if known else found


def _cache_key(found: Corpus, cleaning: Cleaning, data: DataConfig, rule: int) -> str | None:
    """The key of a corpus in the token cache, or None for a corpus that is too small to be cached."""
    if sum(tale.path.stat().st_size for tale in found.tales) < CACHE_FROM_BYTES:
        return None
    # A new setting is part of the key until somebody lists it as unrelated.
    settings = {name: value for name, value in dataclasses.asdict(data).items() if name not in UNRELATED_TO_TOKENS}
    files, row = [tale.name for tale in found.tales], found.dataset
    held_out = [row.valid, row.test] if row else None
    return token_cache.entry_key([found.sha256, files, held_out, dataclasses.asdict(cleaning), settings, rule, LIBRARY])
