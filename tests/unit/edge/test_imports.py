"""What an idle device has in its memory is first of all what it imports."""

import subprocess
import sys

NOT_NEEDED = ("aiomqtt", "cryptography.x509", "paho", "rich", "structlog", "typer")


def test_a_device_loads_nothing_that_only_others_need() -> None:
    code = f"import edge.__main__, sys; print([name for name in {NOT_NEEDED} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.strip() == "[]"
