"""What npm `jose` says of random and mutated tokens, compared with the gateway's own verifier."""
import os
import re
import subprocess

import pytest

from peers import ROOT, node


def test_npm_jose_and_the_gateway_judge_alike(tmp_path):
    program = ROOT / "build" / os.environ.get("VARIANT", "asan") / "tests" / "test_jose_differential"
    if not program.exists():
        pytest.skip(f"{program.relative_to(ROOT)} is not built")
    binary, peers = node()
    verdicts = tmp_path / "verdicts"
    with verdicts.open("w") as out:
        subprocess.run([binary, peers / "jose_verdicts.mjs"], stdout=out, check=True, timeout=120)
    assert len(re.findall("^1 ", verdicts.read_text(), re.M)) >= 18
    done = subprocess.run([program], env=dict(os.environ, JOSE_VERDICTS=str(verdicts)), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
