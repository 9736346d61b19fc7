"""``ncpipe plan``: what a study would run, what that takes, and where the time of a run went."""

from ncpipe.plan.profile import print_profile
from ncpipe.plan.table import print_plan

__all__ = ["print_plan", "print_profile"]
