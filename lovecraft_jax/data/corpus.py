"""The table of datasets, and corpora: their files found or downloaded, verified, hashed and read."""

import contextlib
import dataclasses
import functools
import glob
import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from lovecraft_jax.data.download import fetch
from lovecraft_jax.runtime.cache_folder import cache_folder
from lovecraft_jax.runtime.console import counted, log
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.runtime.files import expand_home

HERE = Path(__file__).parent
RULE = 2
"""How new runs find and split their text; corpus.json records it, none meaning 1, and a run keeps its rule. By 1 a
folder has its hidden files too, and every file counts in the split (`splits.split`)."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A row of DATASETS."""

    name: str  # what config.data.corpus calls it
    source: str | Path  # the URL that the files' names are appended to, or the folder that holds them
    # Has a line "NAME sha256:HASH" for each UTF-8 file: sha256sum *.txt | awk '{print $2 " sha256:" $1}'
    manifest: Path
    title: str  # what a page calls the text: "H. P. Lovecraft's tales"
    about: str  # what it is, where it comes from, and under which licence, in sentences
    language: str  # ISO 639-1
    author: str = ""
    warning: str = ""  # what readers of a text that was learnt from it should know
    valid: tuple[str, ...] | None = None  # names, without their ending, of the held-out files
    test: tuple[str, ...] | None = None  # None: split by hash or position (`splits.split`)
    variable: str | None = None  # the environment variable that may name a folder with the files

    @functools.cached_property
    def hashes(self) -> dict[str, str]:
        """File name to SHA-256, in file-name order."""
        lines = self.manifest.read_text().splitlines()
        return dict(sorted(line.split(" sha256:") for line in lines if not line.startswith("#")))


DATASETS = (
    Dataset(
        name="lovecraft",
        source="https://raw.githubusercontent.com/vilmibm/lovecraftcorpus/c99253bcf06ab739f46f84f77687b90c85ce35a3/",
        manifest=HERE / "lovecraft.sha256",
        title="H. P. Lovecraft's tales",
        about="67 tales by H. P. Lovecraft, some of them written with or for others, from "
        "github.com/vilmibm/lovecraftcorpus. They are in the public domain: Lovecraft died in 1937.",
        language="en",
        author="H. P. Lovecraft",
        warning="Lovecraft's tales have racist descriptions of people, and so may a text that was learnt from them.",
        valid=("haunter", "festival", "cool_air", "dagon", "temple"),
        test=("pickman", "colour_out_of_space", "outsider", "hound", "unnamable"),
        variable="LOVECRAFT_CORPUS",
    ),
    Dataset(
        name="bundled",
        source=HERE / "tales",
        manifest=HERE / "bundled.sha256",
        title="the tales that come with lovecraft_jax",
        about="48 tales that were written for lovecraft_jax and come with it, under the Apache License 2.0.",
        language="en",
    ),
)
"""Every dataset that has a name. To add one, add its row here and its manifest beside this file. The licence of each
allows publishing models of it under the Apache License 2.0."""


@dataclasses.dataclass(frozen=True)
class Tale:
    """A file of a corpus, and the SHA-256 of its bytes."""

    name: str  # the file's without the ending, or its path where two files of the corpus have the same name
    path: Path
    sha256: str

    @property
    def text(self) -> str:
        """The decoded text, read anew at every use, so that a large corpus need not fit in memory. Raises UserError."""
        return read_text(self.path, self.sha256)


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Tales in file-name order."""

    name: str  # what `load` finds them by again: a dataset's name or a path
    tales: tuple[Tale, ...]
    path: str | None = None  # the absolute path or glob; None for a dataset

    @functools.cached_property
    def sha256(self) -> str:
        """A hash of the tales' hashes in their order: it depends on the text, not on where it lies."""
        return _hash_of(tale.sha256 for tale in self.tales)

    @property
    def dataset(self) -> Dataset | None:
        """The row of DATASETS whose files these are, wherever they were found."""
        return find_dataset(self.sha256)


def find_dataset(sha256: str) -> Dataset | None:
    """Returns the row of DATASETS whose files have this hash (`Corpus.sha256`), None where there is none."""
    return next((row for row in DATASETS if _hash_of(row.hashes.values()) == sha256), None)


def load(name: str, rule: int = RULE) -> Corpus:
    """Finds and hashes the corpus `name`: "auto" (the Lovecraft corpus where it can be had, else the bundled tales),
    the name of a dataset, or a path (file, folder of .txt, glob). Raises UserError where it cannot be read."""
    row = next((row for row in DATASETS if row.name == ("lovecraft" if name == "auto" else name)), None)
    if row is None:
        return _load_path(name, rule)
    paths = _locate(row)
    if paths is not None:
        tales = (Tale(path.stem, path, sha256) for path, sha256 in zip(paths, row.hashes.values(), strict=True))
        return Corpus(row.name, tuple(tales))
    remedy = "connect to the internet once"
    if row.variable:
        remedy += f", or set {row.variable} to a folder that holds the {len(row.hashes)} files"
    if name != "auto":
        raise UserError(
            f"data.corpus={name}: its files are not cached and could not be fetched; "
            f"{remedy}, or use config.data.corpus=bundled"
        )
    log(
        "WARNING: the Lovecraft corpus is not cached and could not be fetched. "
        f"Using the BUNDLED tales instead, a fifteenth of its size. For all of it: {remedy}."
    )
    return load("bundled")


def read_text(path: Path, sha256: str = "") -> str:
    """The text of a UTF-8 file, without a byte order mark. Raises UserError if it is not one, or `sha256` differs."""
    with _open(path) as file:
        data = file.read(1 << 20)
        if b"\0" not in data:  # a device such as /dev/zero, which is all of it, has no end
            data += file.read()
    if b"\0" in data:
        raise UserError(f"{path}: a binary file; give UTF-8 text")
    if sha256 and hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f"{path}: changed since this command started; start again")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start}); convert it, for example with iconv") from error


def _locate(row: Dataset) -> list[Path] | None:
    """The verified files of a dataset in file-name order, or None where they cannot be downloaded."""
    folder = os.environ.get(row.variable) if row.variable else None
    if folder:
        return _verified(row, Path(expand_home(folder)), f"{row.variable}={folder}")
    if isinstance(row.source, Path):
        return _verified(row, row.source, f"data.corpus={row.name}")
    return fetch(row.manifest, row.source, cache_folder() / row.name)


def _verified(row: Dataset, folder: Path, setting: str) -> list[Path]:
    """The files of a dataset in a folder. Raises UserError, beginning with the `setting` that names the folder."""
    for name, expected in row.hashes.items():
        file = folder / name
        if not os.path.isfile(file):
            _check_readable(str(folder))
            raise UserError(f"{setting}: {file} is not there; expected the {len(row.hashes)} files of {row.name}")
        if _hash_file(file) != expected:
            raise UserError(f"{setting}: {file} is not the pinned file (its SHA-256 differs)")
    return [folder / name for name in row.hashes]


def _load_path(path: str, rule: int) -> Corpus:
    given = expand_home(path)
    if os.path.isdir(given):
        found = glob.glob(os.path.join(glob.escape(given), "*.txt"), include_hidden=rule == 1)
    else:
        # Unlike Path's, os.path.isfile is false for a name that the system refuses.
        found = [given] if os.path.isfile(given) else glob.glob(given, recursive=True)
    # No pipes, devices or folders.
    files = sorted(filter(os.path.isfile, map(Path, found)), key=lambda file: file.parts)
    if not files:
        _check_readable(given)
        if os.path.isdir(given):
            raise UserError(f"data.corpus={path}: no .txt file in that folder; name a glob for other endings")
        known = ", ".join(("auto", *(row.name for row in DATASETS)))
        moved = "where a run's text was moved, name its place: corpus=PATH, or config.data.corpus=PATH to train"
        raise UserError(f"data.corpus={path}: no such file, folder or glob, nor one of {known} ({moved})")
    # A byte that is not UTF-8 becomes an escape, so that a name can be printed and stored.
    names = [os.fsencode(file.stem).decode("utf-8", "backslashreplace") for file in files]
    if len(set(names)) < len(names):
        names = [os.fsencode(file).decode("utf-8", "backslashreplace") for file in files]
    here = "" if os.path.isabs(given) else os.getcwd()
    place = os.path.join(here if os.path.exists(given) else glob.escape(here), given)
    return Corpus(path, tuple(map(Tale, names, files, map(_hash_file, counted(files, "hashing")))), place)


def exists(path: str) -> bool:
    """Whether there is a file, a folder, or a match of the glob."""
    return os.path.exists(path) or bool(glob.glob(path, recursive=True))


def _check_readable(given: str) -> None:
    """Raises UserError where the nearest folder that is there may not be read: isfile and glob find nothing in it."""
    folder = next((path for path in (Path(given), *Path(given).parents) if os.path.isdir(path)), Path("."))
    if not os.access(folder, os.R_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise UserError(f"{folder}: cannot be read (Permission denied); give a text that you may read")


def _hash_file(path: Path) -> str:
    with _open(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _open(path: Path) -> Iterator[io.BufferedReader]:
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a readable text file") from error


def _hash_of(hashes: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()
