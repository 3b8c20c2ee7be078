"""Release: which version answers, with which settings and code."""

import hashlib
import json

from jobs.revision import code_revision
from jobs.spec import RingSpec


def release_id(spec: RingSpec, version: str) -> str:
    """The digest, 12 hex digits, of all that decides what an application answers.

    Where a running application has the same one, deploying again would change nothing.
    """
    settings = spec.serving.model_dump(mode="json", exclude={"version", "promote"})
    content = [spec.name, spec.storage, version, settings, code_revision("serving.app")]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
