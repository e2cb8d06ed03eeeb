"""The commands of deploy/README.md and docs/recovery.md, taken from the pages."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def _blocks(page: str, section: str, language: str) -> list[str]:
    text = (ROOT / page).read_text().split(f"\n{section}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


# Of a machine with systemd, in order.
PROGRAM, GPU, EDGE, OWN_TOKENS, NO_TOKENS, REMOVED = _blocks("deploy/README.md", "## systemd", "sh")
# The libraries of a drill's page, and the monthly drill.
DRILL_PROGRAM, DRILL = _blocks("deploy/README.md", "## A monthly drill", "sh")
# Consul's policies and tokens.
ACCESS = _blocks("deploy/README.md", "## Consul", "sh")[0]
# The permission for a sidecar to restart its Triton through systemd.
POLKIT_RULE = _blocks("docs/recovery.md", "### systemd", "js")[0]
