"""What the nodes of the suite's cluster tell Prometheus."""

import json
import re
import urllib.request

from serving.watching import discovery_file


def samples() -> dict[str, float]:
    """What the nodes tell, by name and labels."""
    found: dict[str, float] = {}
    groups = json.loads(discovery_file().read_text())
    for target in [target for group in groups for target in group["targets"]]:
        with urllib.request.urlopen(f"http://{target}/metrics", timeout=60) as response:
            for line in response.read().decode().splitlines():
                if line.startswith("ray_rayline_"):
                    name, _, value = line.rpartition(" ")
                    found[name] = float(value)
    return found


def total(found: dict[str, float], name: str, **labels: str) -> float:
    """The sum over the other labels."""
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    return sum(
        value for key, value in found.items() if re.match(rf"{name}(?!\w)", key) and all(w in key for w in wanted)
    )
