"""What decides which answers an application gives: its version, its settings and its code, as a digest."""

import hashlib
import json
from collections.abc import Callable

from jobs.revision import code_revision
from jobs.spec import RingSpec


def release_ids(spec: RingSpec) -> Callable[[str], str]:
    """What gives a version the digest, 12 hex digits, of all that decides what an application answers with it.

    Where a running application has the same one, deploying again would change nothing. The code is looked at now.
    """
    settings = spec.serving.model_dump(mode="json", exclude={"version", "promote"})
    code = code_revision("serving.app")

    def release_id(version: str) -> str:
        content = [spec.name, spec.storage, version, settings, code]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    return release_id
