"""A simulator of the election: many instances, one Consul, every fault, and their invariants.

Nothing waits and nothing is random: a schedule of bytes decides every event, so that
each run can be replayed. The decisions, the requests and their effects are those of the package;
only the thin loops around them are simulated.
"""

from tests.support.election_simulator.laws import Violation
from tests.support.election_simulator.schedule import play

__all__ = ["Violation", "play"]
