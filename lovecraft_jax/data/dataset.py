"""Corpus to tokens: everything between a config's `data` section and the batches."""

import dataclasses
from typing import Any

from lovecraft_jax.config import Config
from lovecraft_jax.data import corpus
from lovecraft_jax.data.cleaning import make_cleaning
from lovecraft_jax.data.splits import PARTS, Splits, split
from lovecraft_jax.data.tokenizer import Encoded, Tokenizer, build_tokenizer
from lovecraft_jax.runtime.errors import UserError


@dataclasses.dataclass(frozen=True)
class Data:
    """A corpus, cleaned, split and encoded. `encoded` has "train", "valid" and "test"."""

    name: str
    sha256: str
    splits: Splits
    tokenizer: Tokenizer
    encoded: dict[str, Encoded]


def prepare(config: Config, recorded: dict[str, Any] | None = None, tokenizer: Tokenizer | None = None) -> Data:
    """Loads the corpus that `config.data` names. To resume a run, pass what corpus.json `recorded`, and its tokenizer.

    Then "auto" means the corpus that was recorded, and another text raises UserError.
    """
    name = config.data.corpus
    if recorded and name == "auto":
        name = recorded["name"]
    found = corpus.load(name)
    if recorded and found.sha256 != recorded["sha256"]:
        raise UserError(
            f"data.corpus={config.data.corpus}: another text than this run's (SHA-256 {found.sha256[:12]} here, "
            f"{recorded['sha256'][:12]} there, named {recorded['name']}): give that one, or another --workdir"
        )
    cleaning = tokenizer.cleaning if tokenizer else make_cleaning(config.data.alphabet)
    splits = split(found, cleaning, config.data.share)
    tokenizer = tokenizer or build_tokenizer(config.data.level, splits.join("train"), cleaning)
    encoded = {part: tokenizer.encode(splits.join(part)) for part in PARTS}
    return Data(found.name, found.sha256, splits, tokenizer, encoded)
