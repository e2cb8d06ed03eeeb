"""python -m benchmarks.peers: runs what was not run yet, and prints the tables of everything."""

import argparse
import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import markdown, report
from benchmarks.peers import programs, tables
from benchmarks.peers.design import DESIGNS, Design, chosen
from benchmarks.peers.faults import FAULTS, Fault
from benchmarks.peers.run import SPEC, Rules, run, seconds
from benchmarks.peers.store import Result, Store
from sidecar.local.programs import parts
from sidecar.runtime.errors import PartMissing, SidecarError

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "comparison.md"
PICTURE = ROOT / "docs" / "comparison.svg"
RESULTS = ROOT / ".cache" / "peers"
_QUICK = 0.1  # of a fault's time

Work = tuple[Design, Fault]


def options() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    names = sorted({name for one in DESIGNS for name in (one.name, one.peer)})
    faults = [one.name for one in FAULTS]
    parser.add_argument("--designs", nargs="+", default=[], metavar="NAME", choices=names)
    parser.add_argument("--scenarios", nargs="+", default=[], metavar="NAME", choices=faults)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    parser.add_argument("--again", action="store_true", help="also what was run before")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--quick", action="store_true", help="tests the wiring; measures nothing")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="for the logs of every run")
    parser.add_argument("--list", action="store_true", help="the names, and nothing else")
    parser.add_argument("--dry", action="store_true", help="run nothing; tables of what was run")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.name}")
    return parser.parse_args()


async def work(todo: list[Work], store: Store, rules: Rules, jobs: int) -> None:
    """Make runs, several at a time, and keep the result of each."""
    room = asyncio.Semaphore(jobs)

    async def one(design: Design, fault: Fault) -> None:
        async with room:
            at = datetime.now(UTC).isoformat(timespec="seconds")
            try:
                result = Result(design.name, fault.name, at, await run(design, fault, rules))
            except SidecarError as error:
                result = Result(design.name, fault.name, at, reason=str(error))
            store.put(result)
            print(f"{at} {design.name} {fault.name}: {result.seen or result.reason}", flush=True)

    for parallel in (True, False):
        chosen_now = [one(*item) for item in todo if item[1].parallel is parallel]
        if parallel:
            await asyncio.gather(*chosen_now)
        else:
            for coroutine in chosen_now:
                await coroutine


def versions() -> str:
    """The versions of all programs."""
    found = [f"{name} {programs.version(name, path)}" for name, path in programs.provide().items()]
    consul = ".".join(map(str, parts.consul_version(parts.find("consul"))))
    return ", ".join(
        [
            *found,
            f"Consul {consul}",
            parts.find("envoy").parents[2].name.replace("envoy-", "Envoy "),
        ]
    )


def main() -> int:
    """Run the benchmark; gives the exit status."""
    wished = options()
    if wished.list:
        print(*(one.name for one in (*DESIGNS, *FAULTS)), sep="\n")
        return 0
    report.begin("The designs that people run in front of Tritons, and this project")
    rules = Rules(_QUICK if wished.quick else 1.0, wished.keep)
    store = Store(wished.results / "quick" if wished.quick else wished.results)
    todo = [] if wished.dry else missing(store, wished)
    total = sum(seconds(fault, rules) for _, fault in todo) / wished.jobs
    print(f"{len(todo)} runs, about {total / 60:.0f} minutes\n", flush=True)
    try:
        programs.provide()
    except PartMissing as error:
        sys.exit(str(error))
    asyncio.run(work(todo, store, rules, wished.jobs))
    text = tables.page(store, about(wished))
    print(text)
    if wished.write:
        write(store, text)
    return 1 if any((one := store.get(*item)) and one.reason for item in todo) else 0


def missing(store: Store, wished: argparse.Namespace) -> list[Work]:
    """The runs that are wanted and have no result yet."""
    names = wished.scenarios or [one.name for one in FAULTS]
    return [
        (design, fault)
        for fault in FAULTS
        for design in chosen(wished.designs)
        if fault.name in names
        and (wished.again or not ((found := store.get(design, fault)) and found.seen))
    ]


def write(store: Store, text: str) -> None:
    """Put tables and picture into the page."""
    # Here, because only this needs the extra `drill`.
    from benchmarks.peers import picture

    markdown.put(PAGE, "designs", tables.designs())
    markdown.put(PAGE, "peers", text)
    picture.draw(store, PICTURE)


def about(wished: argparse.Namespace) -> list[str]:
    """What the tables were made with."""
    jobs = f", {wished.jobs} runs at a time" if wished.jobs > 1 else ""
    return [
        "`python -m benchmarks.peers`",
        f"{report.machine()}{jobs}",
        versions(),
        f"load: {SPEC}",
    ]


if __name__ == "__main__":
    sys.exit(main())
