"""Every application against its own OpenAPI document: what the document allows and what it does not is answered, with
no fault of the service, as the document says.
"""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.types import ASGIApp

from serving.app import APPLICATIONS

EXAMPLES = 40


@pytest.fixture
def loaded(request: pytest.FixtureRequest) -> ASGIApp:
    """The application of a published version of one kind."""
    found = request.getfixturevalue(request.param)
    storage, spec, version = (
        found if isinstance(found, tuple) and len(found) == 3 else (found.storage, found.spec, found.version)
    )
    return APPLICATIONS[spec.workload.kind].load(spec, storage, version, "")


@pytest.mark.parametrize("loaded", ["published", "loans", "published_texts", "pictures", "tagged_texts"], indirect=True)
def test_the_document_is_kept_to(loaded: ASGIApp) -> None:
    schema = schemathesis.openapi.from_asgi("/openapi.json", loaded)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 1
    for operation in operations:
        takes_something = bool(list(operation.body))
        for mode in GenerationMode if takes_something else (GenerationMode.POSITIVE,):
            check(operation.as_strategy(generation_mode=mode))


def check(cases: st.SearchStrategy[Any]) -> None:
    # A column's rules may say more than a schema does: the pattern of a text that came as a number, say.
    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(cases)
    def answered(case: Any) -> None:
        case.call_and_validate(excluded_checks=[positive_data_acceptance])

    answered()
