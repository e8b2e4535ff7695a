#!/usr/bin/env python3
"""Write manifests/edgeembed.yaml, for `kubectl apply` without Helm: what the chart gives for manifests/values.yaml.

    render.py [--helm PROGRAM]

The chart in edgeembed/ is the source; nothing in the written file is changed by hand.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
CHART = HERE / "edgeembed"
WRITTEN = HERE / "manifests" / "edgeembed.yaml"
HELMS = ("app.kubernetes.io/managed-by:", "helm.sh/chart:")
HEAD = """\
# Made by installers/kubernetes/render.py from the chart beside it; change values.yaml in this folder, not this file.
#
#   kubectl create namespace edgeembed
#   kubectl -n edgeembed create secret generic edgeembed-keys --from-literal=keys="app: $(openssl rand -hex 32)"
#   sed 's|"edgeembed:|"REGISTRY/edgeembed:|' edgeembed.yaml | kubectl -n edgeembed apply -f -
#
# REGISTRY is the one that you pushed the image to; README.md in the folder above says how.
"""


def rendered(helm: str) -> str:
    """Return the manifests. Raises subprocess.CalledProcessError, with Helm's message."""
    values = WRITTEN.with_name("values.yaml")
    command = [helm, "template", "edgeembed", str(CHART), "--namespace", "edgeembed", "--values", str(values)]
    made = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    # Helm's own labels would claim an installation by Helm; Helm 3 and 4 differ in empty lines.
    lines = [line for line in made.splitlines() if line and not line.lstrip().startswith(HELMS)]
    return HEAD + "\n".join(lines) + "\n"


def main() -> None:
    """Parse the command line and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--helm", default="helm", help="Helm 3.12 or later")
    try:
        text = rendered(parser.parse_args().helm)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"render.py: {getattr(error, 'stderr', None) or error}")
    WRITTEN.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
