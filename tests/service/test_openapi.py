"""The description of the management API is what the tables say, and sound."""
import json
import re
import subprocess
import sys

from conftest import ROOT
import peers

FILE = ROOT / "services/edge/openapi.json"


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


def test_the_description_is_sound():
    done = subprocess.run([sys.executable, "-m", "openapi_spec_validator", FILE], capture_output=True, text=True, timeout=120,
                          env=peers.python_environment("openapi-spec-validator"))
    assert done.returncode == 0, done.stdout + done.stderr
