"""The MLflow mirror of a study: a store, runs made of the tables, a sync that repeats safely, and the web UI."""

from ncpipe.tracking.client import redacted
from ncpipe.tracking.store import create_store
from ncpipe.tracking.sync import Summary, sync
from ncpipe.tracking.ui import run_ui, serving, ui_command

__all__ = ["Summary", "create_store", "redacted", "run_ui", "serving", "sync", "ui_command"]
