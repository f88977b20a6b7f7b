"""What the documentation prints works when pasted."""
import re
import subprocess

import pytest

from conftest import ROOT

PAGES = ["README.md", "docs/operating.md", "docs/decisions.md", "docs/migrating-fastmcp.md"]
BLOCKS = [(page, number, block) for page in PAGES
          for number, block in enumerate(re.findall(r"<!-- run -->\n```sh\n(.*?)```", (ROOT / page).read_text(), re.S), 1)]


@pytest.mark.parametrize("page, number, block", BLOCKS, ids=[f"{page}-{number}" for page, number, _ in BLOCKS])
def test_the_commands_of_a_page_work_as_printed(gateway, page, number, block):
    environment = {k: v for k, v in gateway.environment().items() if not k.startswith("MCPGW_") or k == "MCPGW_HOME"}
    result = subprocess.run(["bash", "-e", "-u", "-o", "pipefail", "-c", block], cwd=ROOT, env=environment, text=True, timeout=120,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert result.returncode == 0, result.stdout
    assert "unauthorized" not in result.stdout


def test_pages_name_files_that_exist():
    for page in PAGES:
        for link in re.findall(r"\]\(((?!http)[^)#]+)", (ROOT / page).read_text()):
            assert ((ROOT / page).parent / link).exists(), f"{page} names {link}"
