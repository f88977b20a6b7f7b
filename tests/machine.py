"""What suites share about the machine they run on, where several of them run at the same time.

    free_port(2)               the first of two free neighbours, which nobody else is given meanwhile
    make_directory("mcpgw-")   a short one (a socket's path holds 107 characters) that other users may enter, in memory where there is room
    once(folder, key, make)    runs make() unless it was done for this key before, also when several ask at once
"""
import collections
import fcntl
import os
import random
import shutil
import socket
import tempfile
from pathlib import Path

MEMORY = Path("/dev/shm")
MEMORY_WANTED = 4 << 30    # free bytes below which directories lie where $TMPDIR says
# Below what systems give to outgoing connections (Linux 32768, by IANA 49152): such a port is not taken between the look and its use.
PORTS = (15000, 31000)
PORTS_OF_A_WORKER = 2000   # pytest-xdist's workers look in ranges of their own


def free_port(neighbours=1):
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    first = PORTS[0] + worker * PORTS_OF_A_WORKER % (PORTS[1] - PORTS[0])
    while True:
        port = random.SystemRandom().randrange(first, first + PORTS_OF_A_WORKER - neighbours)
        taken = []
        try:
            for number in range(port, port + neighbours):
                taken.append(socket.create_server(("127.0.0.1", number)))
            return port
        except OSError:
            continue
        finally:
            for listener in taken:
                listener.close()


def make_directory(prefix, on_disk=False):
    in_memory = not on_disk and "TMPDIR" not in os.environ and os.access(MEMORY, os.W_OK | os.X_OK) and shutil.disk_usage(MEMORY).free >= MEMORY_WANTED
    directory = Path(tempfile.mkdtemp(prefix=prefix, dir=MEMORY if in_memory else None))
    directory.chmod(0o755)
    return directory


def once(folder, key, make):
    """make(folder) finds the folder empty; what it raises is raised here, and it is tried again by who asks next."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = folder / "stamp"
        if not stamp.exists() or stamp.read_text() != key:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            stamp.write_text(key)


def pytest_collection_modifyitems(items):
    """Workers get file by file (--dist loadfile): those of many tests first, so that none is left for the end."""
    tests = collections.Counter(item.path for item in items)
    items.sort(key=lambda item: (-tests[item.path], item.path))    # stable: within a file as they stand
