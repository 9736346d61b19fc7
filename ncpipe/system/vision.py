"""The one door to torchvision: imported late, and with a reason where it cannot be.

``python -m ncpipe.system.vision`` lets every program of this environment import it, where that is not so by itself.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

from ncpipe.system import torchvision_import
from ncpipe.system.errors import UserError

HOOK = "_ncpipe_torchvision"
"""Module in site-packages, and the ``.pth`` file that starts it."""
UNMENDED = "import sys; sys.meta_path[:] = [finder for finder in sys.meta_path if not hasattr(finder, 'mends')]"


def import_torchvision() -> ModuleType:
    """Import torchvision; raise ``UserError`` if it is missing or does not fit the installed torch."""
    try:
        return importlib.import_module("torchvision")
    except (ImportError, RuntimeError) as error:
        import torch

        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"cannot import torchvision: {reason}; install the release that matches torch {torch.__version__}"
        ) from error


def mend_environment() -> None:
    """Copy the finder of ``ncpipe.system.torchvision_import`` into site-packages, where torchvision needs it."""
    folder = Path(sysconfig.get_path("purelib"))
    module, start = folder / f"{HOOK}.py", folder / f"{HOOK}.pth"
    start.unlink(missing_ok=True)
    module.unlink(missing_ok=True)
    code = f"{UNMENDED}; import torchvision"
    plain = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if torchvision_import.UNLOADED_OPERATOR in plain.stderr:
        module.write_bytes(Path(torchvision_import.__file__).read_bytes())
        start.write_text(f"import {HOOK}; {HOOK}.install()\n", encoding="utf-8")


if __name__ == "__main__":
    mend_environment()
