"""Unix sockets that appear in the file system atomically, with the right mode.

A socket is bound in a private directory beside its path, gets its mode there, and is renamed to the
path, which also replaces a stale socket. A path that another process serves, or that is no socket,
is not changed: BindError.
"""

from __future__ import annotations

import contextlib
import socket
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from farswap.common.address import UNIX_PATH_BYTES_MAX
from farswap.common.errors import BindError

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONNECT_TIMEOUT_S = 1.0


@contextlib.contextmanager
def published(path: Path) -> Iterator[Path]:
    """Yields the path to bind to; at exit the socket is at `path`. Raises BindError."""
    _refuse_if_taken(path)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as private:
            draft = Path(private) / "s"
            if len(str(draft).encode()) > UNIX_PATH_BYTES_MAX:
                raise BindError(f"unix:{path}: the directory's name is too long for a socket")
            yield draft
            draft.chmod(0o600)
            draft.rename(path)
    except OSError as error:
        raise BindError(f"unix:{path}: {error.strerror}") from error


def listen(path: Path, backlog: int = 128) -> socket.socket:
    """A listening, non-blocking stream socket at `path`. Raises BindError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with published(path) as draft:
            listener.bind(str(draft))
            listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    listener.settimeout(0)
    return listener


def remove(path: Path) -> None:
    """Removes a socket after it was served."""
    path.unlink(missing_ok=True)


def _refuse_if_taken(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise BindError(f"unix:{path}: {error.strerror}") from error
    if not stat.S_ISSOCK(mode):
        raise BindError(f"unix:{path}: exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.settimeout(_CONNECT_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except OSError as error:
            raise BindError(f"unix:{path}: {error.strerror}") from error
    raise BindError(f"unix:{path}: another process serves it")
