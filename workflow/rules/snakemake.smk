# What Snakemake (9.25 to 9.27) has no public name for: all that is private to it is used here alone.

import psutil
from snakemake.benchmark import BenchmarkTimer
from snakemake.io import _IOFile

from ncpipe.job_server.start import job_behind


def know_contents(results):
    """Let Snakemake know large results and folders by their content, as it knows files up to 1 MB.

    Of others it (9.27) knows but the date, and where a copy has lost the dates, all that follows from them is due.
    """
    is_known, checksum = _IOFile.is_checksum_eligible, _IOFile.checksum

    async def is_ours(file, threshold):
        # The content of ancient ones does not matter.
        ours = str(file).startswith(f"{results}/") and not file.is_storage
        if not ours or file.is_ancient or await is_known(file, threshold):
            return False
        return await file.exists_local()

    async def is_checksum_eligible(self, threshold):
        return await is_known(self, threshold) or await is_ours(self, threshold)

    async def checksum_of_ours(self, threshold=None, *args, **options):
        if threshold is not None and await is_ours(self, threshold):
            return f"sha256:{content_digest(Path(self))}"
        return await checksum(self, threshold, *args, **options)

    _IOFile.is_checksum_eligible, _IOFile.checksum = (
        is_checksum_eligible,
        checksum_of_ours,
    )


def measure_jobs_of_server():
    """Let benchmarks measure the jobs that a job server has forked, where their processes' stand-ins are measured."""
    measured = BenchmarkTimer.__init__

    def measure(self, pid, *args, **options):
        measured(self, pid, *args, **options)
        self.main = Family(pid)

    BenchmarkTimer.__init__ = measure


class Family(psutil.Process):
    """A process whose children count, and the jobs for which they stand in."""

    def children(self, recursive=False):
        own = super().children(recursive=recursive)
        handed_over = [job_behind(process.pid) for process in (self, *own)]
        jobs = [psutil.Process(job) for job in handed_over if job is not None]
        return own + [each for job in jobs for each in (job, *job.children(recursive))]


def job_name():
    """The name of its jobs, where the executor is SLURM's."""
    return getattr(workflow.scheduler._executor, "run_uuid", None)


def attach(**hooks):
    """Run functions as `onstart`, `onsuccess` and `onerror`, beside what other Snakefiles do there.

    Of `onstart:` and its like Snakemake leaves out those of modules, and keeps the last of several.
    """
    attached = vars(workflow).setdefault("ncpipe_attached", set())
    if PLACE in attached:  # `use rule ... with` reads all files of a module again
        return
    attached.add(PLACE)
    know_contents(PLACE)
    measure_jobs_of_server()
    for name, own in hooks.items():
        setattr(workflow, f"_{name}", before(own, getattr(workflow, f"_{name}")))
        setattr(workflow, name, declaring(own, getattr(workflow, name)))


def before(own, theirs):
    return lambda log: (own(), theirs(log))


def declaring(own, declare):
    """What a later `onstart:` calls, with ours before it."""
    return lambda theirs: declare(before(own, theirs))
