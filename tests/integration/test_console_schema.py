"""The API against its own OpenAPI document: no request makes it fail, and roles hold.

schemathesis makes requests from the document, right and wrong ones, for a caller of each kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from schemathesis.checks import CHECKS, load_all_checks

from support.certificates import Certificates
from support.console import Api, running_console
from support.waiting import wait_for

#: Requests for each operation and caller.
EXAMPLES: Final = 6
DEADLINE_S: Final = 20.0

NAMES_OF_CHECKS: Final = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
]

#: What the roles may do besides reading; reading is for all of them.
OF_ADMIN: Final = frozenset(
    {
        "tokens",
        "create_token",
        "delete_token",
        "audit",
        "ban",
        "delete_ban",
        "end_session",
        "clear_queue",
    }
)
OPEN: Final = frozenset({"login"})
#: Answers that do not end.
ENDLESS: Final = frozenset({"sample"})


@pytest.fixture(scope="module")
def admin(certificates: Certificates) -> Iterator[Api]:
    """Yield a caller of the console of one broker."""
    del certificates
    with running_console("admin first\nviewer looks\noperator acts\n") as (_, url):
        api = Api(url, "first")
        wait_for(lambda: api.get("/audit").status == 200, DEADLINE_S, "the store")
        yield api


@pytest.fixture(scope="module")
def schema(admin: Api) -> Any:
    """Return the document as schemathesis has it."""
    document = admin.get("/openapi.json").body
    assert document["openapi"].startswith("3.1")
    found = schemathesis.openapi.from_dict(document)
    found.config.update(base_url=admin.url)
    return found


@pytest.mark.parametrize("caller", ["nobody", "looks", "acts", "first"])
def test_no_request_makes_it_fail_and_roles_hold(admin: Api, schema: Any, caller: str) -> None:
    load_all_checks()
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.definition.raw["operationId"] not in ENDLESS:
            _try(operation, caller)
    assert admin.get("/overview").status == 200


def _try(operation: Any, caller: str) -> None:
    name, method = operation.definition.raw["operationId"], operation.method.lower()
    headers = {} if caller == "nobody" else {"Authorization": f"Bearer {caller}"}
    checks = CHECKS.get_by_names(NAMES_OF_CHECKS)

    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        phases=[Phase.generate],
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def check(case: Any) -> None:
        # The token decides alone: schemathesis would make headers and cookies up.
        case.headers = {}
        case.cookies = {}
        response = case.call(headers=headers, timeout=DEADLINE_S)
        case.validate_response(response, checks=checks)
        if name in OPEN:
            return
        if caller == "nobody":
            assert response.status_code == 401
        elif caller == "looks" and (name in OF_ADMIN or method != "get"):
            assert response.status_code == 403 or name == "logout"
        elif caller == "acts" and name in OF_ADMIN:
            assert response.status_code == 403

    check()
