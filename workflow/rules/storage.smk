# Results in an object store: a fault of Snakemake's S3 plugin 0.3.6 mended.

from importlib.metadata import version as version_of


def forget_missing_folders():
    """Let the S3 plugin see folders that pods make: 0.3.6 remembers for good that one was not there."""
    from snakemake_storage_plugin_s3 import StorageObject

    if version_of("snakemake-storage-plugin-s3") != "0.3.6":
        sys.exit(
            "ncpipe: works with snakemake-storage-plugin-s3 0.3.6; install that version"
        )
    StorageObject.is_dir = lambda self: any(self.get_subkeys())


if workflow.storage_settings.default_storage_provider == "s3":
    forget_missing_folders()
