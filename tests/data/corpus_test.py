import contextlib
import dataclasses
import functools
import hashlib
import os
import re
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lovecraft_jax.data import corpus, download
from lovecraft_jax.data.cleaning import make_cleaning
from lovecraft_jax.data.corpus import DATASETS, Dataset
from lovecraft_jax.data.splits import split
from lovecraft_jax.runtime.errors import UserError

ASCII = make_cleaning("ascii")


def test_a_file_a_folder_and_a_glob_are_read(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).write_bytes(f"\ufefftale {name} caf\u00e9\r\n".encode())  # the byte order mark is no text
    for given, names in (("b.txt", ["b"]), ("", ["a", "b"]), ("*", ["a", "b", "c"]), ("**/*.md", ["c"])):
        found = corpus.load(str(tmp_path / given))
        assert found.name == str(tmp_path / given)
        assert [tale.name for tale in found.tales] == names
    assert found.tales[0].text == "tale c.md caf\u00e9\r\n"
    assert found.tales[0].sha256 == hashlib.sha256((tmp_path / "c.md").read_bytes()).hexdigest()


def test_files_of_one_name_in_several_folders_stay_apart(tmp_path: Path) -> None:
    for name in ("one", "two"):
        _write(tmp_path / name, {"tale.txt": f"Tale {name}. " * 50})
    text = split(corpus.load(str(tmp_path / "*" / "tale.txt")), ASCII).text
    assert "".join(text.values()) == ("Tale one. " * 50).strip() + "\n\n\n" + ("Tale two. " * 50).strip()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"PK\x03\x04\x00\x00", r"a\.txt: a binary file"),
        ("a.txt", b"caf\xe9", r"a\.txt: not UTF-8 \(byte 3\)"),
        ("a.md", b"text", "no .txt file in that folder"),
        ("a.txt/b.txt", b"text", "no .txt file in that folder"),
    ],
)
def test_a_file_that_is_no_text_is_an_error_that_names_it(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message):
        split(corpus.load(str(tmp_path)), ASCII)


@pytest.mark.parametrize("name", ["lovecroft", "no/such.txt", "*.none", "x" * 256, "~nobody-here/tales"])
def test_a_corpus_that_is_missing_is_an_error_that_lists_the_datasets(name: str) -> None:
    with pytest.raises(
        UserError, match=re.escape(f"data.corpus={name}: ") + r".* nor one of auto, lovecraft, bundled \("
    ):
        corpus.load(name)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_folder_has_the_files_of_its_glob(tmp_path: Path, make: Callable[[Path], None]) -> None:
    _write(tmp_path / "[1]", {"a.txt": "Dagon", ".draft.txt": "Hypnos", "b.md": "Azathoth"})
    make(tmp_path / "[1]" / "x.txt")
    for given in ("[1]", "[[]1]/*.txt"):
        assert [tale.name for tale in corpus.load(str(tmp_path / given)).tales] == ["a"]
    assert [tale.name for tale in corpus.load(str(tmp_path / "[1]"), rule=1).tales] == [".draft", "a"]


def test_an_endless_device_is_not_read_to_its_end() -> None:
    with pytest.raises(UserError, match="binary"):
        corpus.read_text(Path("/dev/zero"))


def test_a_name_that_is_not_utf_8_can_be_printed(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")).write_text("Dagon")
    assert [tale.name for tale in corpus.load(str(tmp_path)).tales] == ["caf\\xe9"]


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="an effective user id of another")
@pytest.mark.parametrize(("mode", "given"), [(0, ""), (0, "*.txt"), (0, "a.txt"), (0o444, ""), (0o444, "*")])
def test_a_folder_that_may_not_be_read_is_not_said_to_be_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, given: str
) -> None:
    folder = _write(tmp_path / "tales", {"a.txt": "Dagon"})
    folder.chmod(mode)
    with _as_nobody(tmp_path), pytest.raises(UserError, match=r"cannot be read \(Permission denied\)"):
        corpus.load(str(folder / given))


def test_the_hash_depends_on_the_text_and_not_on_its_place(tmp_path: Path) -> None:
    files = {"a.txt": "Dagon", "b.txt": "Hypnos"}
    first, same, other, merged = (_write(tmp_path / name, files) for name in ("one", "two", "three", "four"))
    (other / "b.txt").write_text("hypnos")
    (merged / "b.txt").unlink()
    (merged / "a.txt").write_text("DagonHypnos")
    hashes = [corpus.load(str(folder)).sha256 for folder in (first, same, other, merged)]
    assert hashes[0] == hashes[1] == corpus.load(str(first / "*.txt")).sha256
    assert len(set(hashes)) == 3


class Served:
    """A manifest of ten tales and a folder of them that a web server on this machine serves."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cache, self.manifest = folder / "served", folder / "cache", folder / "manifest"
        self.texts = {f"tale{i}.txt": f"The tale {i}." for i in range(10)}
        _write(self.folder, self.texts)
        self.manifest.write_text("# ten tales\n" + "".join(map(_manifest_line, self.texts.items())))
        handler = functools.partial(_QuietHandler, directory=str(self.folder))
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        about = {"title": "ten tales", "about": "Ten tales.", "language": "en"}
        held_out = {"valid": ("tale1",), "test": ("tale2",)}
        row = Dataset("lovecraft", self.url, self.manifest, variable="LOVECRAFT_CORPUS", **about, **held_out)
        self.dataset = row

    def stop(self) -> None:
        if self.thread.is_alive():
            self.server.shutdown()
            self.thread.join()
            self.server.server_close()

    def fetch(self) -> list[Path] | None:
        return download.fetch(self.manifest, self.url, self.cache)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    served = Served(tmp_path)
    monkeypatch.setattr(corpus, "DATASETS", (served.dataset, *DATASETS[1:]))
    yield served
    served.stop()


def test_files_damaged_in_transit_or_in_the_cache_are_never_used(served: Served) -> None:
    (served.folder / "tale7.txt").write_text("The tale 7!")
    assert served.fetch() is None
    (served.folder / "tale7.txt").write_text("The tale 7.")
    paths = served.fetch()
    assert paths == [served.cache / name for name in served.texts]
    paths[3].write_text("The tale 3!")
    assert served.fetch() == paths
    assert {path.name: path.read_text() for path in paths} == served.texts
    paths[3].write_text("The tale 3!")
    served.stop()
    assert served.fetch() is None


def test_a_server_that_never_finishes_is_given_up(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            while not over.wait(0.05):
                self.request.sendall(b"H")

    monkeypatch.setattr(download, "PROBE_SECONDS", 0.5)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        served.url = f"http://127.0.0.1:{server.server_address[1]}/"
        began = time.monotonic()
        found = served.fetch()
        seconds = time.monotonic() - began
        over.set()
        server.shutdown()
        thread.join()
    assert found is None
    assert seconds < download.FETCH_SECONDS / 2  # only for the probe


def test_auto_is_the_lovecraft_corpus_where_it_can_be_had(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    found = corpus.load("auto")
    assert found.name == "lovecraft"
    assert [tale.text for tale in found.tales] == list(served.texts.values())
    served.stop()
    assert corpus.load("auto") == corpus.load("lovecraft") == found
    monkeypatch.setenv("LOVECRAFT_CORPUS", str(served.folder))
    assert corpus.load("auto").sha256 == found.sha256
    (served.folder / "tale4.txt").write_text("The tale 4!")
    with pytest.raises(UserError, match=r"tale4\.txt is not the pinned file"):  # rather than the bundled tales
        corpus.load("auto")


def test_without_a_network_auto_is_bundled_with_a_warning(
    served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with socket.socket() as closed:  # bound, so that nobody else takes the port; nothing listens
        closed.bind(("127.0.0.1", 0))
        offline = dataclasses.replace(served.dataset, source=f"http://127.0.0.1:{closed.getsockname()[1]}/")
        monkeypatch.setattr(corpus, "DATASETS", (offline, *DATASETS[1:]))
        assert corpus.load("auto") == corpus.load("bundled")
        out, warning = capsys.readouterr()
        assert out == ""
        assert re.fullmatch(r"WARNING: .* BUNDLED .* set LOVECRAFT_CORPUS to a folder .* the 10 files.*\n", warning)
        with pytest.raises(UserError, match=r"could not be fetched.*LOVECRAFT_CORPUS.*data\.corpus=bundled"):
            corpus.load("lovecraft")


@pytest.fixture
def row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """A dataset of thirty tales in a folder, added to the table."""
    texts = {f"tale{i:02d}.txt": f"The tale {i}." for i in range(30)}
    _write(tmp_path / "files", texts)
    (tmp_path / "manifest").write_text("".join(map(_manifest_line, texts.items())))
    row = Dataset(
        name="mine",
        source=tmp_path / "files",
        manifest=tmp_path / "manifest",
        title="my tales",
        about="Thirty tales of mine.",
        language="en",
        valid=("tale03",),
        test=("tale04", "tale05"),
        variable="MY_TALES",
    )
    monkeypatch.setattr(corpus, "DATASETS", (*DATASETS, row))
    return row


def test_a_row_of_the_table_is_all_that_a_dataset_needs(row: Dataset, tmp_path: Path) -> None:
    found = corpus.load("mine")
    assert (found.name, found.dataset) == ("mine", row)
    assert [tale.text for tale in found.tales] == [f"The tale {i}." for i in range(30)]
    tales = split(found, ASCII).tales
    assert (tales["valid"], tales["test"], len(tales["train"])) == (["tale03"], ["tale04", "tale05"], 27)
    # Under other names elsewhere, a tale that was held out does not turn into training text.
    (tmp_path / "renamed").mkdir()
    for i, tale in enumerate(found.tales):
        tale.path.rename(tmp_path / "renamed" / f"{i:03d}.txt")
    tales = split(corpus.load(str(tmp_path / "renamed")), ASCII).tales
    assert (tales["valid"], tales["test"]) == (["003"], ["004", "005"])


def test_the_folder_of_a_row_or_the_one_in_its_variable_must_hold_the_pinned_files(
    row: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "files" / "tale07.txt").write_text("The tale 7!")
    with pytest.raises(UserError, match=r"^data\.corpus=mine: .*tale07\.txt is not the pinned file"):
        corpus.load("mine")
    moved = (tmp_path / "files").rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"data\.corpus=mine: .*tale00\.txt is not there; expected the 30 files"):
        corpus.load("mine")
    monkeypatch.setenv("MY_TALES", str(moved))
    with pytest.raises(UserError, match=r"^MY_TALES=.*tale07\.txt is not the pinned file"):
        corpus.load("mine")
    (moved / "tale07.txt").write_text("The tale 7.")
    assert corpus.load("mine").tales[7].path == moved / "tale07.txt"


def test_texts_and_held_out_tales_of_the_datasets_are_those_that_runs_recorded() -> None:
    lovecraft, bundled = DATASETS
    assert isinstance(bundled.source, Path)
    assert sorted(path.name for path in bundled.source.iterdir()) == list(bundled.hashes)
    assert corpus.load("bundled").sha256.startswith("8283a6e5")  # of the files themselves
    assert corpus.load("bundled").dataset == bundled
    assert hashlib.sha256("\n".join(lovecraft.hashes.values()).encode()).hexdigest().startswith("f945e1de")
    assert sorted(lovecraft.valid or ()) == ["cool_air", "dagon", "festival", "haunter", "temple"]
    assert sorted(lovecraft.test or ()) == ["colour_out_of_space", "hound", "outsider", "pickman", "unnamable"]


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def _as_nobody(folder: Path) -> Iterator[None]:
    """As a user whom modes keep out of a folder, which root is not."""
    for parent in (folder, *folder.parents)[: 0 if os.geteuid() else 4]:
        parent.chmod(0o755)
    if os.geteuid():
        yield
        return
    os.seteuid(12345)
    try:
        yield
    finally:
        os.seteuid(0)


def _manifest_line(item: tuple[str, str]) -> str:
    return f"{item[0]} sha256:{hashlib.sha256(item[1].encode()).hexdigest()}\n"


def _write(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder
