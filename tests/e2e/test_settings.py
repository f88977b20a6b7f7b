"""Wrong settings: every program says what is wrong, where, and what to do, and ends with status 2 or 3."""
import os
import re
import subprocess

import pytest

from conftest import ROOT

PROGRAMS = ["edge", "authz", "ratelimit", "keys", "audit"]


def run(gateway, program, *arguments, **settings):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MCPGW_")}
    environment.update(settings, ASAN_OPTIONS="detect_leaks=0")
    return subprocess.run([gateway.build / "bin" / f"mcpgw-{program}", *arguments], env=environment, text=True, timeout=30,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_names_every_setting(gateway, program):
    result = run(gateway, program, "--help")
    assert result.returncode == 0 and "MCPGW_LOG_LEVEL" in result.stdout and "--show-config" in result.stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_unknown_setting_is_named(gateway, program):
    result = run(gateway, program, MCPGW_NO_SUCH_SETTING="1")
    assert result.returncode == 2 and "MCPGW_NO_SUCH_SETTING" in result.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_ill_typed_setting_is_named_with_its_range(gateway, program):
    result = run(gateway, program, MCPGW_DRAIN_MS="soon")
    assert result.returncode == 2 and "MCPGW_DRAIN_MS" in result.stderr and "600000" in result.stderr


def test_a_line_of_the_file_is_named(gateway, tmp_path):
    file = tmp_path / "mcpgw.yaml"
    file.write_text("log_level: info\nthreds: 12\n")
    result = run(gateway, "edge", "--config", str(file))
    assert result.returncode == 2 and f"{file}:2" in result.stderr and "threds" in result.stderr


def test_secrets_are_never_shown(gateway):
    result = run(gateway, "authz", "--show-config", MCPGW_DATABASE_URL="postgresql://u:hunter2@h/d", MCPGW_CACHE_KEY="hunter2" * 5)
    assert "hunter2" not in result.stdout + result.stderr


def test_tls_on_the_edge_is_refused_with_the_reason(gateway, tmp_path):
    result = run(gateway, "edge", MCPGW_LISTEN="127.0.0.1:8443s", MCPGW_SPOOL_DIR=str(tmp_path), MCPGW_BUS=f"ipc://{tmp_path}/edge-1")
    assert result.returncode in (2, 3) and "TLS" in result.stderr


def test_plain_tcp_beyond_loopback_is_refused(gateway):
    result = run(gateway, "ratelimit", MCPGW_EDGES="tcp://192.0.2.1:7400", MCPGW_REDIS_URL="redis://127.0.0.1:1/0")
    assert result.returncode in (2, 3) and "MCPGW_BUS_KEYS" in result.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_settings_file_of_containers_and_units_is_right_with_all_its_examples(gateway, program, tmp_path):
    shipped = ROOT / "compose" / "gateway.yaml"
    assert run(gateway, program, "--show-config", MCPGW_CONFIG=str(shipped)).returncode == 0
    secret, file = tmp_path / "partner", tmp_path / "gateway.yaml"
    secret.write_text("secret")
    text = re.sub(r"(?m)^#(?=\S|  )", "", shipped.read_text()).replace("/run/secrets-of-role/partner", str(secret))
    assert text.count("\n  - name:") == 4
    file.write_text(text)
    result = run(gateway, program, "--show-config", "--config", str(file))
    assert result.returncode == 0, result.stderr
