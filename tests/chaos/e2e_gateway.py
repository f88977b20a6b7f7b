"""tests/e2e/conftest.py under a name of its own: this directory has a conftest too; and links of a gateway that can be cut."""
import hashlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "e2e"))    # what it imports
_spec = importlib.util.spec_from_file_location("e2e_conftest", Path(__file__).resolve().parents[1] / "e2e" / "conftest.py")
_module = importlib.util.module_from_spec(_spec)
sys.modules["e2e_conftest"] = _module
_spec.loader.exec_module(_module)
Gateway, make_home, free_port, wait_until = _module.Gateway, _module.make_home, _module.free_port, _module.wait_until


def run_user():
    """Whom compose/local runs the services as; as root it is made here when `up` has not made it yet."""
    if os.geteuid() != 0:
        return None
    name = os.environ.get("MCPGW_USER", "mcpgw")
    try:
        return pwd.getpwnam(name)
    except KeyError:
        subprocess.run(["useradd", "--system", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", name], check=True)
        return pwd.getpwnam(name)


class Links:
    """authz to edges, audit to edges, audit to Postgres: each by a process that cuts it when told (cutter.py)."""
    NAMES = ("authz", "audit", "postgres")

    def __init__(self, home, edges):
        user, self.dir = run_user(), Path(tempfile.mkdtemp(prefix="mcpgw-cut-"))
        real = Path(os.environ.get("TMPDIR", "/tmp")) / f"mcpgw-{hashlib.sha256(os.path.realpath(home).encode()).hexdigest()[:12]}"
        rows = [["postgres", self.dir / ".s.PGSQL.5432", real / ".s.PGSQL.5432"]]
        for link, suffixes in (("authz", ["authz", "trail"]), ("audit", ["replay", "trail"])):
            (self.dir / link).mkdir()
            rows += [[link, self.dir / link / f"{edge}.{suffix}", real / "bus" / f"{edge}.{suffix}"]
                     for edge in edges for suffix in suffixes]
        if user is not None:
            for path in (self.dir, *self.dir.iterdir()):
                os.chown(path, user.pw_uid, user.pw_gid)
        self.process = subprocess.Popen(
            ["/usr/bin/python3", "-c", (Path(__file__).parent / "cutter.py").read_text(), *(str(item) for row in rows for item in row)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/", user=user and user.pw_uid, group=user and user.pw_gid)
        assert self.process.stdout.readline() == "ready\n"
        self.settings = {f"MCPGW_SETTINGS_{name}": "MCPGW_EDGES=" + ",".join(f"ipc://{self.dir}/{name}/{edge}" for edge in edges)
                         for name in ("authz", "audit")}
        self.settings["MCPGW_SETTINGS_audit"] += f" MCPGW_DATABASE_URL=postgresql:///mcpgw?host={self.dir}&user=mcpgw_audit"

    def tell(self, order, link):
        self.process.stdin.write(f"{order} {link}\n")
        self.process.stdin.flush()

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)
