"""python -m benchmarks.peers: runs what was not run yet, and prints the tables of everything."""

import argparse
import asyncio
import math
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import markdown, report
from benchmarks.peers import connect, programs, tables
from benchmarks.peers.design import CONNECT, DESIGNS, Design, chosen
from benchmarks.peers.faults import FAULTS, Fault
from benchmarks.peers.figures import Seen
from benchmarks.peers.run import SPEC, Rules, run, seconds
from benchmarks.peers.store import Result, Session, Store
from sidecar.local.programs import parts
from sidecar.runtime.errors import PartMissing, SidecarError

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "comparison.md"
PICTURE = ROOT / "docs" / "comparison.svg"
RESULTS = Path(__file__).parent / "results.json"
_QUICK = 0.1  # of a fault's time
_INTERRUPTED = 130

Work = tuple[Design, Fault]


def options() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    names = sorted({name for one in DESIGNS for name in (one.name, one.peer)})
    faults = [one.name for one in FAULTS]
    parser.add_argument("--designs", nargs="+", default=[], metavar="NAME", choices=names)
    parser.add_argument("--scenarios", nargs="+", default=[], metavar="NAME", choices=faults)
    parser.add_argument("--results", type=Path, metavar="FILE", help=f"else {RESULTS.name}")
    parser.add_argument("--again", action="store_true", help="also what was run before")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument(
        "--quick", action="store_true", help="shortened: tests the wiring, measures nothing"
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="for the logs of every run")
    parser.add_argument("--list", action="store_true", help="the names, and nothing else")
    parser.add_argument("--dry", action="store_true", help="run nothing; tables of what was run")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.name}")
    wished = parser.parse_args()
    if wished.quick and wished.write:
        parser.error("--write: not with --quick, which measures nothing")
    return wished


class Progress:
    """Prints each result, how many there are, and how long the rest will take."""

    def __init__(self, todo: Sequence[Work], rules: Rules, jobs: int) -> None:
        self._left, self._rules, self._jobs = list(todo), rules, jobs
        self._all = len(todo)
        print(f"{self._all} runs, about {self._minutes()} minutes\n", flush=True)

    def done(self, item: Work, result: Result) -> None:
        """A run has ended."""
        self._left.remove(item)
        count = f"{self._all - len(self._left)} of {self._all}"
        said = brief(result.seen) if result.seen else f"not measured: {result.reason}"
        name = f"{result.design} {result.scenario}"
        print(f"{count}, {self._minutes()} min left; {name}: {said}", flush=True)

    def _minutes(self) -> int:
        together = sum(seconds(fault, self._rules) for _, fault in self._left if fault.parallel)
        alone = sum(seconds(fault, self._rules) for _, fault in self._left if not fault.parallel)
        return math.ceil((together / self._jobs + alone) / 60)


async def work(todo: Sequence[Work], store: Store, rules: Rules, session: Session) -> None:
    """Make runs, several at a time, and keep the result of each as soon as it is there."""
    room = asyncio.Semaphore(session.jobs)
    progress = Progress(todo, rules, session.jobs)

    async def one(item: Work) -> None:
        async with room:
            result = await outcome(*item, rules, session)
            store.put(result)
            progress.done(item, result)

    async with asyncio.TaskGroup() as together:
        for item in todo:
            if item[1].parallel:
                together.create_task(one(item))
    for item in todo:
        if not item[1].parallel:
            await one(item)


async def outcome(design: Design, fault: Fault, rules: Rules, session: Session) -> Result:
    """Make one run; whatever happens to it, the others go on."""
    at, found, reason = now(), None, ""
    try:
        found = await run(design, fault, rules)
    except SidecarError as error:
        reason = str(error)
    except Exception as error:  # noqa: BLE001 -- hours of other runs do not depend on it
        reason = repr(error)
    return Result(design.name, fault.name, at, session, found, reason)


def brief(found: Seen) -> str:
    """What was seen, for a line of progress."""
    rto = "not recovered" if found.rto is None else f"RTO {found.rto:.1f} s"
    return f"{found.failed} failed, {found.wrong} wrong of {found.sent}, {rto}"


def now() -> str:
    """ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> str:
    """The versions of all programs."""
    found = [f"{name} {programs.version(name, path)}" for name, path in programs.provide().items()]
    consul = f"Consul {parts.consul_release(parts.find('consul'))}"
    envoy = parts.find("envoy").parents[2].name.replace("envoy-", "Envoy ")
    return ", ".join([*found, consul, envoy])


def main() -> int:
    """Run the benchmark; gives the exit status."""
    wished = options()
    if wished.list:
        print(*(one.name for one in (*DESIGNS, *FAULTS)), sep="\n")
        return 0
    report.begin("The designs that people run in front of Tritons, and this project")
    rules = Rules(_QUICK if wished.quick else 1.0, wished.keep)
    store = Store(wished.results or (None if wished.quick else RESULTS), rules.share)
    todo = [] if wished.dry else missing(store, wished)
    try:
        if todo:
            made_with = session(wished, rules)
            todo = possible(todo, store, made_with)
            asyncio.run(work(todo, store, rules, made_with))
    except PartMissing as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        print("\ninterrupted; what was measured is kept, and the same command continues")
        return _INTERRUPTED
    text = tables.page(store)
    print(text)
    if wished.write:
        write(store, text)
    return 1 if any((one := store.get(*item)) and one.reason for item in todo) else 0


def possible(todo: Sequence[Work], store: Store, session: Session) -> list[Work]:
    """The runs that can be made here; why others cannot is their result."""
    of_connect = [item for item in todo if item[0].peer == CONNECT]
    reason = why_without_connect() if of_connect else ""
    if not reason:
        return list(todo)
    for design, fault in of_connect:
        store.put(Result(design.name, fault.name, now(), session, reason=reason))
    return [item for item in todo if item not in of_connect]


def why_without_connect() -> str:
    """Why Consul Connect is not measured; empty if it is."""
    try:
        return connect.unfit()
    except PartMissing as error:
        return str(error)


def missing(store: Store, wished: argparse.Namespace) -> list[Work]:
    """The runs that are wanted and have no result yet, or an outdated one."""
    names = wished.scenarios or [one.name for one in FAULTS]
    return [
        (design, fault)
        for fault in FAULTS
        for design in chosen(wished.designs)
        if fault.name in names
        and (wished.again or not (found := store.get(design, fault)) or not found.holds)
    ]


def write(store: Store, text: str) -> None:
    """Put tables and picture into the page."""
    # Here, because only this needs the extra `drill`.
    from benchmarks.peers import picture

    markdown.put(PAGE, "designs", tables.designs())
    markdown.put(PAGE, "peers", text)
    picture.draw(store, PICTURE)


def session(wished: argparse.Namespace, rules: Rules) -> Session:
    """What the runs of this call are made with; programs that are not here are fetched.

    Raises:
        PartMissing: one cannot be had.
    """
    command = ["python", "-m", "benchmarks.peers", f"--jobs={wished.jobs}"]
    command += ["--again"] if wished.again else []
    command += ["--quick"] if wished.quick else []
    command += ["--designs", *wished.designs] if wished.designs else []
    command += ["--scenarios", *wished.scenarios] if wished.scenarios else []
    made_with = (shlex.join(command), report.machine(), versions(), str(SPEC))
    return Session(now(), *made_with, wished.jobs, rules.share)


if __name__ == "__main__":
    sys.exit(main())
