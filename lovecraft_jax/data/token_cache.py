"""Token ids of large corpora, cached in the user's cache folder and memory-mapped: a second start decodes no text.

An entry is one file: the SHA-256 of the rest, a line of JSON, the ids of train, valid and test. It is written under a
temporary name and renamed, and its checksum is compared whenever it is read: a damaged entry counts as missing and is
written again. A folder that cannot be written is no error. Entries that were used longest ago are removed when all
together exceed MAX_BYTES; the newest is always kept.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import unicodedata
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from lovecraft_jax.data.cleaning import Counts
from lovecraft_jax.data.encoded import Encoded, Spelled
from lovecraft_jax.data.splits import PARTS
from lovecraft_jax.data.tokenizer import Tokenizer, load_tokenizer
from lovecraft_jax.runtime.cache_folder import cache_folder

MAX_BYTES = 4 << 30
ALIGNMENT = 64  # the ids begin at a multiple of so many bytes


@dataclasses.dataclass(frozen=True)
class Entry:
    """The tokens of a corpus; `tales`, `counts` and `facts` as in Splits, `encoded` by split."""

    tokenizer: Tokenizer
    tales: dict[str, list[str]]
    counts: Counts
    facts: dict[str, Any]
    encoded: dict[str, Encoded]


def entry_key(inputs: Any) -> str:
    """Returns a hash of `inputs` (JSON: all that the tokens depend on, except the tokenizer) and of the code in this
    folder: edited code never gets tokens of the code before."""
    code = [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(Path(__file__).parent.glob("*.py"))]
    return hashlib.sha256(json.dumps([inputs, code, unicodedata.unidata_version]).encode()).hexdigest()[:32]


def load(key: str, tokenizer: Tokenizer | None) -> Entry | None:
    """Returns the entry whose tokenizer is the given one, or, with None, the one that was built from the text itself;
    None where there is no such entry, or it is damaged. The ids are memory-mapped."""
    for path in dict.fromkeys((_path(key, None), _path(key, tokenizer))):
        entry = _read(path, tokenizer)
        if entry:
            with contextlib.suppress(OSError):
                os.utime(path)
            return entry
    return None


def save(key: str, tokenizer: Tokenizer | None, entry: Entry) -> None:
    """Writes an entry for `load` with these arguments, and removes the oldest beyond MAX_BYTES. Raises no OSError."""
    arrays = [np.ascontiguousarray(entry.encoded[part].ids) for part in PARTS]
    header = {
        "tokenizer": entry.tokenizer.dumps(),
        "tales": entry.tales,
        "counts": dataclasses.asdict(entry.counts),
        "facts": entry.facts,
        "dtype": arrays[0].dtype.str,
        "parts": {part: (len(text.ids), text.n_chars, text.extra_nats) for part, text in entry.encoded.items()},
        "spelled": {
            part: (spelled.at_R.tolist(), list(spelled.texts), spelled.nats_R.tolist(), spelled.left_out)
            for part, spelled in ((part, text.spelled) for part, text in entry.encoded.items())
        },
    }
    line = json.dumps(header).encode()
    before = hashlib.sha256().digest_size * 2 + 1
    line += b" " * (-(before + len(line) + 1) % ALIGNMENT) + b"\n"
    digest = hashlib.sha256(line)
    for array in arrays:
        digest.update(array.data)
    path = _path(key, tokenizer)
    partial = path.with_name(f"{uuid.uuid4().hex}.partial")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(partial, "wb") as file:
                file.writelines([digest.hexdigest().encode(), b"\n", line, *(array.data for array in arrays)])
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        _remove_oldest(keep=path)


def _read(path: Path, tokenizer: Tokenizer | None) -> Entry | None:
    try:
        with open(path, "rb") as file:
            expected = file.readline().decode().strip()
            begin = file.tell()
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                return None
            file.seek(begin)
            header = json.loads(file.readline())
            if tokenizer and tokenizer.dumps() != header["tokenizer"]:
                return None
            # A plain array: slices of numpy's memmap class, and so all batches, would be memmaps too.
            ids = np.asarray(np.memmap(file, np.dtype(header["dtype"]), "r", file.tell()))
    except (OSError, ValueError):
        return None
    encoded, start = {}, 0
    for part in PARTS:
        count, n_chars, extra_nats = header["parts"][part]
        at, texts, nats, left_out = header["spelled"][part]
        spelled = Spelled(np.array(at, int), texts, np.array(nats, float), left_out)
        encoded[part] = Encoded(ids[start : start + count], n_chars, extra_nats, spelled)
        start += count
    tokenizer = tokenizer or load_tokenizer(header["tokenizer"])
    return Entry(tokenizer, header["tales"], Counts(**header["counts"]), header["facts"], encoded)


def _remove_oldest(keep: Path) -> None:
    """Removes the files used longest ago, among them those that a killed process left half written."""
    used = {file: file.stat() for file in keep.parent.iterdir() if file != keep}
    total = keep.stat().st_size
    for file in sorted(used, key=lambda file: used[file].st_mtime, reverse=True):
        total += used[file].st_size
        if total > MAX_BYTES:
            file.unlink(missing_ok=True)


def _path(key: str, tokenizer: Tokenizer | None) -> Path:
    own = "-" + hashlib.sha256(tokenizer.dumps().encode()).hexdigest()[:32] if tokenizer else ""
    return cache_folder() / "tokens" / (key + own)
