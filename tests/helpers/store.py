"""An object store in a folder of this machine, in place of gs:// for every process that calls `use`."""

import io
import os
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import fsspec


class Store(fsspec.AbstractFileSystem):
    """Objects have names and contents: no folders, no appending, no renaming. A write is atomic, and so is creating an
    object only where there is none."""

    protocol = ("gs", "gcs")
    folder: Path

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        if self._at(path).is_file():
            return {"name": path, "size": self._at(path).stat().st_size, "type": "file"}
        if any(name.startswith(path + "/") for name in self._names()):
            return {"name": path, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)  # the path is its only argument, and `filename` None, as with gcsfs

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        path = self._strip_protocol(path)
        below = (name.removeprefix(path + "/") for name in self._names() if name.startswith(path + "/"))
        entries = [self.info(f"{path}/{name}") for name in sorted({name.partition("/")[0] for name in below})]
        if not entries:
            entries = [self.info(path)]
        return entries if detail else [entry["name"] for entry in entries]

    def mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        """Nothing to do: the bucket is there."""

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Nothing to do."""

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> io.BytesIO:
        if mode == "rb":
            return io.BytesIO(self.cat_file(path))
        assert mode == "wb", f"an object store cannot open {path} with {mode!r}"
        return _Upload(self, path)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        try:
            return self._at(path).read_bytes()[start:end]
        except FileNotFoundError:
            raise FileNotFoundError(path) from None

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        number, partial = tempfile.mkstemp(dir=self.folder, prefix="#")
        with os.fdopen(number, "wb") as file:
            file.write(value)
        if mode == "create":
            try:
                os.link(partial, self._at(path))
            finally:
                os.unlink(partial)
        else:
            os.replace(partial, self._at(path))

    def rm_file(self, path: str) -> None:
        try:
            self._at(path).unlink()
        except FileNotFoundError:
            raise FileNotFoundError(path) from None

    def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        raise AssertionError(f"renaming {path1} is copying and deleting on an object store: not atomic")

    def _at(self, path: str) -> Path:
        return self.folder / quote(self._strip_protocol(path), safe="")

    def _names(self) -> list[str]:
        return [unquote(name) for name in os.listdir(self.folder) if not name.startswith("#")]


class _Upload(io.BytesIO):
    def __init__(self, store: Store, path: str) -> None:
        super().__init__()
        self._store, self._path = store, path

    def close(self) -> None:
        try:
            if not self.closed:
                self._store.pipe_file(self._path, self.getvalue())
        finally:  # closed after an error too, as fsspec's files are: the finalizer would upload again
            super().close()


def use(folder: Path | str) -> None:
    """Keeps what is written to gs:// in `folder`, from here on."""
    Store.folder = Path(folder)
    Store.folder.mkdir(exist_ok=True)
    for scheme in Store.protocol:
        fsspec.register_implementation(scheme, Store, clobber=True)
