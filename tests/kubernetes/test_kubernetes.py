"""A study through the kubernetes profile: pods that share nothing but an S3 store.

The S3 server is moto's, the pods are processes in empty folders, started by a stand-in for the API of Kubernetes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pandas as pd
import pytest
import yaml
from kubernetes_api import Api
from moto.server import ThreadedMotoServer
from workplace import COMPARED, ROOT

PASSWORD = "s3-password-of-the-test"
STUDY = {
    "study": {"name": "tiny", "results": "results"},
    "datasets": {"base": {"name": "digits", "samples_per_class": 20}},
    "networks": {
        "base": {
            "model": {"name": "mlp", "depth": 2, "width": 8},
            "loss": {"name": "mse"},
            "epochs": 4,
            "optimizer": {"lr": 0.05},
        },
    },
    "ufm": {
        "base": {
            "classes": 3,
            "samples": 5,
            "dim": 6,
            "weight_decay": [5e-3, 5e-3],
            "feature_decay": 1e-3,
            "solver": {"name": "lbfgs"},
        },
        "matched": ["extended"],
    },
    "figures": ["frames"],
}


class Store:
    """An S3 server on this machine with one bucket."""

    def __init__(self) -> None:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.address = f"http://{host}:{port}"
        keys = {"aws_access_key_id": "key", "aws_secret_access_key": PASSWORD, "region_name": "us-east-1"}
        self.client = boto3.client("s3", endpoint_url=self.address, **keys)
        self.client.create_bucket(Bucket="bucket")

    def names(self) -> set[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket="bucket")
        return {entry["Key"] for page in pages for entry in page.get("Contents", [])}

    def close(self) -> None:
        self._server.stop()


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    started = Store()
    yield started
    started.close()


class Place:
    """A folder with the study, in which Snakemake runs."""

    def __init__(self, folder: Path, store: Store | None = None, kubeconfig: Path | None = None) -> None:
        self.folder, self.environment, self.options = folder, dict(os.environ), ["--cores", "2"]
        folder.mkdir()
        # Pods get the workflow from the working folder, as in a clone.
        shutil.copy(ROOT / "Snakefile", folder)
        shutil.copytree(ROOT / "workflow", folder / "workflow")
        (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
        if store:
            self.environment |= {"SNAKEMAKE_STORAGE_S3_ACCESS_KEY": "key", "KUBECONFIG": str(kubeconfig)}
            self.environment |= {"SNAKEMAKE_STORAGE_S3_SECRET_KEY": PASSWORD}
            self.options = ["--profile", "workflow/profiles/kubernetes"]
            self.options += [
                "--default-storage-prefix",
                "s3://bucket/study",
                "--storage-s3-endpoint-url",
                store.address,
            ]

    def run(self, *options: str) -> str:
        command = [sys.executable, "-m", "snakemake", "--configfile", "study.yaml", *self.options, *options]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]
        return done.stdout + done.stderr


@pytest.mark.thorough
def test_the_profile_plans_pods_and_an_object_store(store, tmp_path):
    text = Place(tmp_path / "dry", store).run("--dry-run", "--forceall")
    assert "s3://bucket/study/results/report.html (send to storage)" in text
    assert "gpu_manufacturer=nvidia" in text


@pytest.mark.kubernetes
def test_pods_that_share_only_the_store_make_the_same_tables(store, tmp_path):
    alone = Place(tmp_path / "alone")
    alone.run()
    (tmp_path / "pods").mkdir()
    api = Api(tmp_path / "pods")
    api.write_kubeconfig(tmp_path / "kubeconfig")
    place = Place(tmp_path / "place", store, tmp_path / "kubeconfig")
    try:
        place.run("--seconds-between-status-checks", "1")
        assert api.pods.jobs
        assert set(api.pods.exits.values()) == {0}
        gpus = [job["spec"]["template"]["spec"]["containers"][0]["resources"] for job in api.pods.jobs.values()]
        assert sum("nvidia.com/gpu" in wanted["requests"] for wanted in gpus) == 2  # training and measuring
        for name in COMPARED:
            there = tmp_path / f"{name}.parquet"
            store.client.download_file("bucket", f"study/results/tables/{name}.parquet", str(there))
            pd.testing.assert_frame_equal(
                pd.read_parquet(there),
                pd.read_parquet(alone.folder / f"results/tables/{name}.parquet"),
                check_exact=True,
                obj=name,
            )
        assert "study/results/report.html" in store.names()
        assert (place.folder / "results/mlflow/mlflow.db").exists()
        assert "Nothing to be done" in place.run()
    finally:
        api.close()
    leaks = [path for path in place.folder.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]
    assert leaks == []
