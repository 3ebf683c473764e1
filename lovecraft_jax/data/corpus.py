"""The tales: find or download them, verify them, clean them, split them by whole tale."""

import contextlib
import dataclasses
import glob
import hashlib
import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pooch

from lovecraft_jax.data.cleaning import Cleaning, Counts, clean_all
from lovecraft_jax.runtime.console import log
from lovecraft_jax.runtime.errors import UserError

LOVECRAFT_URL = "https://raw.githubusercontent.com/vilmibm/lovecraftcorpus/c99253bcf06ab739f46f84f77687b90c85ce35a3/"
LOVECRAFT_MANIFEST = Path(__file__).with_name("lovecraft.sha256")
LOVECRAFT_VALID = ("haunter", "festival", "cool_air", "dagon", "temple")
LOVECRAFT_TEST = ("pickman", "colour_out_of_space", "outsider", "hound", "unnamable")
BUNDLED = Path(__file__).with_name("tales")
PROBE_SECONDS, FETCH_SECONDS, FETCH_THREADS = 5, 60, 8
FILES_TO_SPLIT_BY = 20
BETWEEN_TALES = "\n\n\n"  # one newline more than ends a paragraph


@dataclasses.dataclass(frozen=True)
class Tale:
    """One file: its name without the ending, its text as decoded, the SHA-256 of its bytes."""

    name: str
    text: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Tales in file-name order. `name` is what `load` finds it by again: a keyword or a path."""

    name: str
    tales: tuple[Tale, ...]

    @property
    def sha256(self) -> str:
        """A hash of the tales' hashes in their order: the text, not where it lies."""
        return _hash_of([tale.sha256 for tale in self.tales])

    @property
    def is_lovecraft(self) -> bool:
        """Whether these are the 67 tales, wherever they were found."""
        return self.sha256 == _hash_of(_pinned().values())


@dataclasses.dataclass(frozen=True)
class Splits:
    """Cleaned text by split, the tales in each (none where the cut is by position), and what cleaning took.

    `by_tale` has the texts of each split by tale, ends stripped; where the cut is by position, one named as the split.
    """

    text: dict[str, str]
    tales: dict[str, list[str]]
    by_tale: dict[str, dict[str, str]]
    counts: Counts


def load(name: str) -> Corpus:
    """Finds the corpus `name`: "auto", "lovecraft", "bundled", or a path (file, folder of .txt, glob).

    Raises UserError where it is not there, damaged, binary or not UTF-8.
    """
    if name == "bundled":
        return Corpus("bundled", _read(sorted(BUNDLED.glob("*.txt"))))
    if name not in ("auto", "lovecraft"):
        return Corpus(name, _read(_find(name)))
    if folder := os.environ.get("LOVECRAFT_CORPUS"):
        return Corpus("lovecraft", _read(_verified(Path(os.path.expanduser(folder)))))
    paths = fetch(LOVECRAFT_MANIFEST, LOVECRAFT_URL, pooch.os_cache("lovecraft_jax") / "lovecraft")
    if paths:
        return Corpus("lovecraft", _read(paths))
    told = "the Lovecraft corpus is not cached and could not be fetched"
    way = "connect once, or set LOVECRAFT_CORPUS to a folder that holds the 67 files"
    if name == "lovecraft":
        raise UserError(f"data.corpus=lovecraft: {told}; {way}, or use --config.data.corpus=bundled")
    log(f"WARNING: {told}. Using the BUNDLED tales instead, a fifteenth of its size. For all of it: {way}.")
    return load("bundled")


def fetch(manifest: Path, url: str, cache: Path) -> list[Path] | None:
    """Every file of a pooch `manifest`, cached and verified, or None: all of them or none.

    A network that swallows packets costs PROBE_SECONDS; a slow one at most FETCH_SECONDS more.
    """
    pooch.get_logger().setLevel("ERROR")
    registry = pooch.create(path=cache, base_url=url, registry=None)
    registry.load_registry(manifest)
    downloader = pooch.HTTPDownloader(timeout=PROBE_SECONDS)
    missing = [name for name in registry.registry_files if not _is_cached(registry, name)]
    paths = [cache / name for name in sorted(registry.registry_files)]
    if not missing:
        return paths

    def get(names: Sequence[str]) -> None:
        for name in names:
            registry.fetch(name, downloader=downloader)

    probe, rest = missing[:1], missing[1:]
    done = _all_within(PROBE_SECONDS, get, [probe])
    done = done and _all_within(FETCH_SECONDS, get, [rest[i::FETCH_THREADS] for i in range(FETCH_THREADS)])
    return paths if done else None


def split(corpus: Corpus, cleaning: Cleaning, share: float = 1.0) -> Splits:
    """Train, valid and test by whole tale: the fixed ten held-out tales of the Lovecraft corpus; elsewhere 5 % and
    5 % of the files in the order of their hashes; under FILES_TO_SPLIT_BY files 90/5/5 by position.

    Of the training text only a `share` is kept: the first tales in the order of their hashes, or its beginning.
    """
    cleaned, counts = clean_all((tale.text for tale in corpus.tales), cleaning)
    texts = {tale.name: text.strip() for tale, text in zip(corpus.tales, cleaned, strict=True)}
    if not any(texts.values()):
        raise UserError(f"data.corpus={corpus.name}: no text in it after cleaning; give a file or folder with prose")
    if len(texts) < FILES_TO_SPLIT_BY:
        text = BETWEEN_TALES.join(filter(None, texts.values()))
        cuts = [0, int(0.9 * len(text)), int(0.95 * len(text)), len(text)]
        pieces = [text[begin:end] for begin, end in itertools.pairwise(cuts)]
        pieces[0] = pieces[0][: math.ceil(share * len(pieces[0]))]
        parts = dict(zip(("train", "valid", "test"), pieces, strict=True))
        names: dict[str, list[str]] = {"train": list(texts), "valid": [], "test": []}
        by_tale = {part: {part: text} for part, text in parts.items()}
    else:
        names = _names_by_split(corpus)
        names["train"] = _first_tales(corpus, texts, names["train"], share)
        by_tale = {part: {name: texts[name] for name in names[part]} for part in names}
        parts = {part: BETWEEN_TALES.join(filter(None, tales.values())) for part, tales in by_tale.items()}
    for part, text in parts.items():
        if not text.strip():
            raise UserError(f"data.corpus={corpus.name}: nothing is left for the {part} split; give a longer text")
    return Splits(parts, names, by_tale, counts)


def _names_by_split(corpus: Corpus) -> dict[str, list[str]]:
    if corpus.is_lovecraft:
        valid, test = set(LOVECRAFT_VALID), set(LOVECRAFT_TEST)
    else:
        by_hash = [tale.name for tale in sorted(corpus.tales, key=lambda tale: tale.sha256)]
        count = max(1, math.floor(0.05 * len(by_hash) + 0.5))
        valid, test = set(by_hash[:count]), set(by_hash[count : 2 * count])
    where = {
        tale.name: "valid" if tale.name in valid else "test" if tale.name in test else "train" for tale in corpus.tales
    }
    return {part: [name for name in where if where[name] == part] for part in ("train", "valid", "test")}


def _first_tales(corpus: Corpus, texts: dict[str, str], names: list[str], share: float) -> list[str]:
    """Of these tales the first in the order of their hashes, as many as come nearest to a `share` of the characters."""
    by_hash = [tale.name for tale in sorted(corpus.tales, key=lambda tale: tale.sha256) if tale.name in set(names)]
    read = list(itertools.accumulate(len(texts[name]) for name in by_hash))
    count = 1 + min(range(len(read)), key=lambda n: abs(read[n] - share * read[-1]))
    return [name for name in names if name in set(by_hash[:count])]


def _find(path: str) -> list[Path]:
    given = Path(os.path.expanduser(path))
    if os.path.isfile(given):  # unlike Path's, false for a name that the system refuses
        return [given]
    if os.path.isdir(given):
        found = sorted(given.glob("*.txt"))
        if not found:
            raise UserError(f"data.corpus={path}: no .txt file in that folder; name a glob for other endings")
        return found
    found = sorted(file for file in map(Path, glob.glob(str(given), recursive=True)) if os.path.isfile(file))
    if not found:
        raise UserError(f"data.corpus={path}: no such file, folder or glob, nor one of auto, lovecraft, bundled")
    return found


def _hash_of(hashes: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _pinned() -> dict[str, str]:
    """File name to SHA-256, in file-name order."""
    lines = LOVECRAFT_MANIFEST.read_text().splitlines()
    return dict(sorted(line.split(" sha256:") for line in lines if not line.startswith("#")))


def _verified(folder: Path) -> list[Path]:
    hashes = _pinned()
    for name, expected in hashes.items():
        file = folder / name
        if not os.path.isfile(file):
            raise UserError(f"LOVECRAFT_CORPUS={folder}: {name} is not there; it must hold the {len(hashes)} files")
        if hashlib.sha256(file.read_bytes()).hexdigest() != expected:
            raise UserError(f"LOVECRAFT_CORPUS={folder}: {name} is not the pinned file (its SHA-256 differs)")
    return [folder / name for name in hashes]


def _read(paths: Sequence[Path]) -> tuple[Tale, ...]:
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    return tuple(read_tale(path, name) for path, name in zip(paths, names, strict=True))


def read_tale(path: Path, name: str) -> Tale:
    """One UTF-8 file, with or without BOM. Raises UserError where it cannot be read as text."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a readable text file") from error
    if b"\0" in data:
        raise UserError(f"{path}: a binary file; give UTF-8 text")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start}); convert it, for example with iconv") from error
    return Tale(name, text, hashlib.sha256(data).hexdigest())


def _is_cached(registry: pooch.Pooch, name: str) -> bool:
    file = registry.abspath / name
    return file.is_file() and pooch.file_hash(str(file)) == registry.registry[name].removeprefix("sha256:")


def _all_within(seconds: float, work: Callable[[Sequence[str]], None], shares: Sequence[Sequence[str]]) -> bool:
    """Whether every share was done in time, each in its thread. Daemons: one stuck in the network delays no exit."""
    done: list[bool] = []

    def run(share: Sequence[str]) -> None:
        # Whatever the network or the disk did: the share is not done, the caller falls back and says so.
        with contextlib.suppress(Exception):
            work(share)
            done.append(True)

    threads = [threading.Thread(target=run, args=(share,), daemon=True) for share in shares]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return len(done) == len(shares)
