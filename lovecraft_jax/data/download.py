"""Downloads of pinned files into the user's cache folder, each checked by its SHA-256."""

import contextlib
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pooch

PROBE_SECONDS, FETCH_SECONDS, FETCH_THREADS = 5, 60, 8


def fetch(manifest: Path, url: str, cache: Path) -> list[Path] | None:
    """Returns every file of a pooch `manifest`, cached and verified, sorted by name; None if any cannot be had. Waits
    at most PROBE_SECONDS for the first missing file, and FETCH_SECONDS for the others."""
    pooch.get_logger().setLevel("ERROR")
    registry = pooch.create(path=cache, base_url=url, registry=None)
    registry.load_registry(manifest)
    paths = [cache / name for name in sorted(registry.registry_files)]
    missing = [name for name in registry.registry_files if not _is_cached(registry, name)]
    shares = [missing[1 + i :: FETCH_THREADS] for i in range(FETCH_THREADS)]
    done = _fetch_all(registry, [missing[:1]], PROBE_SECONDS) and _fetch_all(registry, shares, FETCH_SECONDS)
    return paths if done else None


def _is_cached(registry: pooch.Pooch, name: str) -> bool:
    file = registry.abspath / name
    return file.is_file() and pooch.file_hash(str(file)) == registry.registry[name].removeprefix("sha256:")


def _fetch_all(registry: pooch.Pooch, shares: Sequence[Sequence[str]], seconds: float) -> bool:
    """Whether the files of every share were fetched in time, each share in a thread."""
    done: list[bool] = []

    def work(share: Sequence[str]) -> None:
        # Whatever the network or the disk did: the share is not done, and the caller reports it.
        with contextlib.suppress(Exception):
            for name in share:
                registry.fetch(name, downloader=pooch.HTTPDownloader(timeout=PROBE_SECONDS))
            done.append(True)

    # Daemons, so that a thread that waits for the network does not delay the exit.
    threads = [threading.Thread(target=work, args=(share,), daemon=True) for share in shares]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return len(done) == len(shares)
