"""tests/e2e/conftest.py under a name of its own: this directory has a conftest too."""
import importlib.util
import random
import socket
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "e2e"))    # what it imports
_spec = importlib.util.spec_from_file_location("e2e_conftest", Path(__file__).resolve().parents[1] / "e2e" / "conftest.py")
_module = importlib.util.module_from_spec(_spec)
sys.modules["e2e_conftest"] = _module
_spec.loader.exec_module(_module)
Gateway, make_home, wait_until = _module.Gateway, _module.make_home, _module.wait_until


def two_ports():
    """The first of two free neighbours."""
    while True:
        port = random.SystemRandom().randrange(20000, 30000)
        try:
            with socket.create_server(("127.0.0.1", port)), socket.create_server(("127.0.0.1", port + 1)):
                return port
        except OSError:
            continue
