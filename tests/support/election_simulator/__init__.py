"""A simulator of the election: many instances, one Consul, every fault, and laws that must hold.

Nothing here waits and nothing is random: a schedule of bytes decides all that happens, so that
each run can be replayed. The decisions, the requests and their effects are those of the package;
only the thin loops around them are played.
"""

from tests.support.election_simulator.laws import Violation
from tests.support.election_simulator.schedule import play

__all__ = ["Violation", "play"]
