"""ACLs of a local mesh's Consul: default deny, and one token for each kind of program.

It uses Consul's HTTP API directly, because the mesh is set up before any event loop runs.

Acts: http, time.
"""

import http
import http.client
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidecar.runtime.errors import ConfigError, Rejected, SidecarError, Unavailable, words

# The service in the policy files.
_WRITTEN_FOR = "triton"
_POLICIES = {
    "sidecar": "sidecar.hcl",
    "control_plane": "control-plane.hcl",
    "operator": "operator.hcl",
}
_PAUSE = 0.1  # seconds between attempts while the agent is starting


@dataclass(frozen=True, slots=True, repr=False)
class Tokens:
    """The secret of each kind of program; `repr` hides them from logs."""

    sidecar: str
    control_plane: str
    operator: str

    @classmethod
    def generate(cls) -> "Tokens":
        """New random secrets in the form that Consul expects (UUIDs)."""
        return cls(str(uuid.uuid4()), str(uuid.uuid4()), str(uuid.uuid4()))


def agent_config(management_token: str) -> dict[str, Any]:
    """The part of the agent's JSON configuration that sets default policy deny.

    Consul 1.8 to 1.10 call the management token `master`; 1.11 and later call it
    `initial_management` and still accept the old name, while 1.8 rejects the new one.
    The agent uses the same token: a separate one is of no use on one machine.
    """
    return {
        "acl": {
            "enabled": True,
            "default_policy": "deny",
            "down_policy": "extend-cache",
            "tokens": {"master": management_token, "agent": management_token},
        }
    }


def bootstrap_acl(
    http_address: str,
    management_token: str,
    policies_dir: Path,
    service: str = _WRITTEN_FOR,
    *,
    tokens: Tokens | None = None,
    timeout: float = 30.0,
) -> Tokens:
    """Create the policies and one token for each; idempotent.

    Args:
        http_address: the agent, `host:port`.
        management_token: a token that may write ACLs.
        policies_dir: the folder with sidecar.hcl, control-plane.hcl and operator.hcl.
        service: the Consul service that the policies are for.
        tokens: the secrets to use. A development agent forgets all when it restarts; with the same
            secrets, the programs that hold them need not change.
        timeout: seconds for a starting agent to elect itself and set up its ACLs.

    Raises:
        ConfigError: a policy file cannot be read.
        Unavailable: the agent did not become ready in time.
        Rejected: the agent rejects a policy, a token, or the management token.
    """
    rules = {kind: _rules(policies_dir / file, service) for kind, file in _POLICIES.items()}
    tokens = tokens or Tokens.generate()
    api = _Api(http_address, management_token)
    known = _until_ready(api.policies, timeout)
    for kind, text in rules.items():
        name = f"triton-sidecar-{kind.replace('_', '-')}-{service}"
        api.put_policy(name, text, known.get(name))
        api.put_token(name, getattr(tokens, kind))
    return tokens


def rules_for(text: str, service: str) -> str:
    """The rules of a policy file, rewritten for `service`."""
    return text.replace(f'"{_WRITTEN_FOR}"', f'"{service}"').replace(
        f"triton-sidecar/{_WRITTEN_FOR}/", f"triton-sidecar/{service}/"
    )


def _rules(path: Path, service: str) -> str:
    try:
        return rules_for(path.read_text(encoding="utf-8"), service)
    except OSError as error:
        raise ConfigError(f"{path}: expected an ACL policy: {error.strerror}") from error


def _until_ready(ask: Callable[[], dict[str, str]], timeout: float) -> dict[str, str]:
    """The first successful answer of an agent that may still be starting.

    It answers 500 until it has elected itself, and then briefly 403, while it knows no token.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            return ask()
        except (Unavailable, Rejected):
            if time.monotonic() >= deadline:
                raise
        time.sleep(_PAUSE)


class _Api:
    """The four ACL calls."""

    def __init__(self, address: str, token: str) -> None:
        self._address = address
        self._token = token

    def policies(self) -> dict[str, str]:
        """Ids of the policies by name."""
        return {policy["Name"]: policy["ID"] for policy in self._call("GET", "/v1/acl/policies")}

    def put_policy(self, name: str, rules: str, policy_id: str | None) -> None:
        path = f"/v1/acl/policy/{policy_id}" if policy_id else "/v1/acl/policy"
        self._call("PUT", path, {"Name": name, "Rules": rules})

    def put_token(self, policy: str, secret: str) -> None:
        """Create the token unless it exists."""
        if self._knows(secret):
            return
        body = {"SecretID": secret, "Description": policy, "Policies": [{"Name": policy}]}
        self._call("PUT", "/v1/acl/token", body)

    def _knows(self, secret: str) -> bool:
        status, _ = self._send("GET", "/v1/acl/token/self", None, secret)
        return status == http.HTTPStatus.OK

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        status, answer = self._send(method, path, body, self._token)
        if status != http.HTTPStatus.OK:
            raise _failure(status, f"Consul: {method} {path}: {status} {answer.strip()}")
        return json.loads(answer)

    def _send(
        self, method: str, path: str, body: dict[str, Any] | None, token: str
    ) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self._address, timeout=5)
        try:
            headers = {"X-Consul-Token": token}
            connection.request(method, path, json.dumps(body) if body else None, headers)
            response = connection.getresponse()
            return response.status, response.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"Consul at {self._address}: {words(error)}") from error
        finally:
            connection.close()


def _failure(status: int, message: str) -> SidecarError:
    # A rejected policy is a 500 too; only an agent without a leader may answer differently later.
    waiting = status >= http.HTTPStatus.INTERNAL_SERVER_ERROR and "leader" in message
    return Unavailable(message) if waiting else Rejected(message)
