"""Write the resolved config of the study as JSON."""

import json
from pathlib import Path

target = Path(snakemake.output[0])  # noqa: F821
temporary = target.with_suffix(".tmp")
temporary.write_text(json.dumps(snakemake.params.config, indent=2) + "\n", encoding="utf-8")  # noqa: F821
temporary.replace(target)
