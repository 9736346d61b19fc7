"""The MLflow mirror of a study: a store, runs made of the tables, a sync that repeats safely, and the web UI."""

import logging
import os

# MLflow reads these while it is imported, and whoever sets them is obeyed: no telemetry, no log (it prints tracebacks
# of errors that it also raises), and a dead server reported in seconds, not after its four minutes of retries.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}.items():
    os.environ.setdefault(_name, _value)

# Again for whoever imported MLflow first.
logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"])
