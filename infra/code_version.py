"""Which code is installed, so that a process of older code is known for one."""

import hashlib
import sys
import sysconfig
from pathlib import Path

PACKAGES = ("schemas", "producers", "streams", "consumers", "infra")
ROOT = Path(__file__).resolve().parents[1]
SITE = Path(sysconfig.get_path("purelib"))


def fingerprint(root: Path = ROOT, site: Path = SITE) -> str:
    """Sixteen digits that differ when our code, the Python or any installed version does.

    By content and not by time, so that a checkout there and back changes nothing.
    """
    digest = hashlib.sha256(sys.version.encode())
    for path in sorted(p for name in PACKAGES for p in (root / name).rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"\n{path.relative_to(root)} {len(content)}\n".encode())
        digest.update(content)
    for name in sorted(folder.name for folder in site.glob("*.dist-info")):
        digest.update(f"\n{name}".encode())
    return digest.hexdigest()[:16]
