"""The description of the management API is what the tables say, and sound."""
import json
import re
import subprocess
import sys

import pytest

from conftest import ROOT

FILE = ROOT / "services/edge/openapi.json"


@pytest.fixture(scope="module")
def validator():
    """From PyPI, once; without a registry the lint is skipped, by name."""
    place = ROOT / "build" / "pypi"
    if not (place / "openapi_spec_validator").exists():
        done = subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--target", place, "openapi-spec-validator==0.7.1"],
                              capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            pytest.skip("openapi-spec-validator is not to be had: " + done.stderr.strip()[-200:])
    return place


def test_the_file_is_what_the_tables_say():
    made = subprocess.run([ROOT / "tools/openapi"], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert made.stdout == FILE.read_text(), "run: make docs"


def test_every_route_of_the_management_api_is_described():
    paths = json.loads(FILE.read_text())["paths"]
    routes = re.findall(r'^ROUTE\("(\w+)", +"(/api/v1/[^"]+)"', (ROOT / "services/edge/routes.def").read_text(), re.M)
    assert len(routes) > 30
    for method, pattern in routes:
        assert method.lower() in paths[pattern], (method, pattern)


def test_the_description_is_sound(validator):
    done = subprocess.run([sys.executable, "-m", "openapi_spec_validator", FILE], capture_output=True, text=True, timeout=120,
                          env={"PYTHONPATH": str(validator), "PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stdout + done.stderr
