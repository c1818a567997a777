"""Unix sockets in folders of any depth: an address holds 107 bytes, a state directory's path more.

So the folder is opened, and the address goes by its descriptor.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def address(path: Path) -> Iterator[str]:
    """An address of the socket file that is short; raises OSError where there is no folder."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def packet_socket() -> socket.socket:
    """A socket of whole packets that never waits."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made.setblocking(False)
    return made
