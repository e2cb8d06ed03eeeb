"""ACLs of a cluster's Consul: deny by default, and a token for each kind of program.

Acts: through what it imports or is given.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sidecar.local import assets
from sidecar.local.planning import acl
from sidecar.local.planning.acl import Tokens
from sidecar.runtime.threads import in_daemon_thread


@dataclass(frozen=True, slots=True, repr=False)
class Grants:
    """The tokens of a cluster. `management` may do everything; `repr` hides all of them."""

    management: str
    tokens: Tokens = field(default_factory=Tokens.generate)

    @property
    def agent(self) -> Mapping[str, object]:
        """That part of every agent's settings."""
        return acl.agent_config(self.management)

    def files(self, folder: Path) -> Mapping[Path, str]:
        """The files of the tokens, where a mesh in this folder looks for them."""
        secrets = {"management": self.management, **asdict(self.tokens)}
        return {folder / "tokens" / role: secret for role, secret in secrets.items()}

    async def grant(self, consul: str) -> None:
        """Create the policies and tokens, once the servers have a leader.

        Args:
            consul: `host:port` of a server.

        Raises:
            Unavailable, Rejected: the servers did not become ready in time, or refuse.
        """
        policies = assets.folder("consul") / "policies"

        def granted() -> None:
            acl.bootstrap_acl(consul, self.management, policies, tokens=self.tokens)

        await in_daemon_thread(granted, "ACL")
