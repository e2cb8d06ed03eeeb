"""What looks at the primary's queue say about an overload."""

from sidecar.drill.samples import Sample
from tests.support.mesh.pressure import Queue

LOOK = 0.25  # seconds
SENT = (Sample("unary", 0, 1.0, 1.0, "answered"),)
# The crowd's process could not run for most of this request.
HELD_UP = (Sample("unary", 0, 1.0, 1.0, "answered", late=0.9),)


def test_it_is_looked_at_from_the_first_request_that_waits() -> None:
    queue = Queue([])
    queue.saw(0, LOOK, SENT)
    assert queue.lengths == []
    queue.saw(7, LOOK, SENT)
    queue.saw(5, LOOK, SENT)
    assert queue == Queue([7, 5], 2 * LOOK)


def test_an_empty_queue_is_seen_unless_the_crowd_stood_still() -> None:
    queue = Queue([7], LOOK)
    queue.saw(0, LOOK, ())
    queue.saw(0, LOOK, HELD_UP)
    assert queue == Queue([7], LOOK)
    queue.saw(0, LOOK, SENT)
    assert queue == Queue([7, 0], LOOK)


def test_a_look_says_little_about_a_long_time() -> None:
    queue = Queue([])
    queue.saw(7, 60.0, SENT)
    assert queue.waited < 1.0
