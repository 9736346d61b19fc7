"""Progress: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

from ncpipe.system.progress import progress

CODE = """
from ncpipe.system.progress import (progress)
with progress("training", 3) as report:
    for epoch in (1, 2, 3):
        report(epoch, f"loss {epoch}")
"""


def test_a_log_gets_the_first_and_the_last_line(capsys):
    with progress("training", 100) as report:
        for epoch in range(1, 101):
            report(epoch, f"loss {epoch}")
    assert capsys.readouterr().err.splitlines() == ["training 1/100 loss 1", "training 100/100 loss 100"]


def test_a_terminal_gets_a_bar():
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100"}
    subprocess.run([sys.executable, "-c", CODE], stderr=theirs, env=environment, check=True)
    os.close(theirs)
    screen = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        screen += part
    assert b"\x1b[" in screen
    assert b"3/3" in screen
    assert b"loss 3" in screen
