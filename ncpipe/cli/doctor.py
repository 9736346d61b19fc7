"""A check of the installation and of a study's surroundings."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil

import ncpipe
from ncpipe.study.study import Study

PACKAGES = ("torch", "torchvision", "torchmetrics", "numpy", "snakemake", "mlflow", "pyarrow", "matplotlib")


def print_diagnosis(study: Study | None) -> None:
    """Print versions, devices, torchvision's state, data sources and, for a study, its folders."""
    import torch

    from ncpipe.system.vision import import_torchvision

    print(f"ncpipe {ncpipe.__version__}, Python {platform.python_version()}, {os.cpu_count()} CPUs")
    for package in PACKAGES:
        try:
            print(f"  {package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            print(f"  {package} missing: pip install 'ncpipe[pipeline]'")
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    print(f"devices: {', '.join(devices) or 'no GPU, training runs on the CPU'}")
    try:
        import_torchvision()
        print("torchvision imports")
    except Exception as error:  # any failure of a foreign library is what is to be told
        print(f"torchvision does not import: {error}")
    if study is None:
        return
    print(f"study {study.config.study.name}: {len(study.networks)} networks, {len(study.problems)} UFM problems")
    for folder in study.data_path:
        print(f"data path {folder}: {', '.join(sorted(path.name for path in folder.iterdir())[:8])}")
    existing = next(p for p in (study.layout.results, *study.layout.results.resolve().parents) if p.exists())
    free = shutil.disk_usage(existing).free / 2**30
    writable = os.access(existing, os.W_OK)
    print(f"results in {study.layout.results}: {'writable' if writable else 'NOT writable'}, {free:.0f} GiB free")
