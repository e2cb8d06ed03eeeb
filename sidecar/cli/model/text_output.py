"""Prints the answers of `triton-sidecar model`, as text or with --json."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from sidecar.models.store.collection import Collected
from sidecar.models.store.contents import Listed, Stored
from sidecar.models.store.documents.names import Reference, of_digest
from sidecar.models.store.documents.tags import Tag
from sidecar.models.store.pull import Pulled
from sidecar.models.store.push import Pushed
from sidecar.models.store.transfer import Copied
from sidecar.models.store.verification import Verified
from sidecar.runtime import terminal
from sidecar.runtime.amounts import in_bytes
from sidecar.runtime.terminal import Column, Grid


def pushed(name: Reference, done: Pushed, as_json: bool) -> None:
    """The answer of `push`."""
    if as_json:
        return _print(
            **_identity(done.stored),
            name=str(name) if name.tag else None,
            new=done.new,
            present=done.present,
            known=done.known,
        )
    if done.known:
        return print(f"{name} is {of_digest(done.stored.digest)} already")
    called = str(name) if name.tag else str(done.stored)
    what = f" is {of_digest(done.stored.digest)}" if name.tag else ""
    return print(f"{called}{what}: {in_bytes(done.new)} stored, {in_bytes(done.present)} known")


def pulled(stored: Stored, target: Path, done: Pulled, as_json: bool) -> None:
    """The answer of `pull`."""
    made = {str(how): count for how, count in done.made.items()}
    left = str(done.left) if done.left else None
    if left:
        print(
            f"triton-sidecar: {left}, which was replaced, cannot be removed; another user may "
            "have written into it",
            file=sys.stderr,
        )
    if as_json:
        more = {"known": done.known, "made": made, "left": left}
        return _print(**_identity(stored), folder=str(target), **more)
    if done.known:
        return print(f"{target} is {stored} already")
    ways = ", ".join(f"{count} by {how}" for how, count in sorted(made.items()))
    return print(f"{target} is {stored}: {ways or 'no files'}")


def listed(found: Sequence[Listed], as_json: bool, wide: bool) -> None:
    """The answer of `list`."""
    if as_json:
        return _print(snapshots=[_listed(each) for each in found])
    grid = Grid(
        [
            Column("name", folds=True),
            Column("digest", shortens=True),
            Column("created", worth=3),
            Column("size"),
            Column("files", worth=1),
            Column("by", worth=2),
            Column("from", worth=2, folds=True),
        ]
    )
    for each in found:
        grid.add(*_row(each))
    return terminal.show(grid, wide) if found else print("no snapshots")


def _row(each: Listed) -> tuple[str, ...]:
    if each.stored is None:
        return (", ".join(each.tags), of_digest(each.digest), "", "damaged", "", "", each.fault)
    snapshot = each.stored.snapshot
    name = ", ".join(each.tags) or snapshot.model
    return (
        *(name, of_digest(each.digest), snapshot.created, in_bytes(snapshot.size)),
        *(str(len(snapshot.all_files)), snapshot.by, snapshot.source),
    )


def _listed(each: Listed) -> dict[str, object]:
    if each.stored is None:
        return {"digest": of_digest(each.digest), "names": each.tags, "fault": each.fault}
    return {**_identity(each.stored), **_origin(each.stored), "names": each.tags}


def shown(stored: Stored, tags: Mapping[tuple[str, str], Tag], as_json: bool, wide: bool) -> None:
    """The answer of `show`."""
    snapshot = stored.snapshot
    names = [f"{model}:{tag}" for (model, tag), was in tags.items() if was.digest == stored.digest]
    files = [
        {**asdict(file), "digest": of_digest(file.digest), "canary": file in snapshot.canaries}
        for file in snapshot.all_files
    ]
    if as_json:
        more = {"names": names, "files": files, "folders": snapshot.folders}
        return _print(**_identity(stored), **_origin(stored), **more)
    source = f", from {snapshot.source}" if snapshot.source else ""
    print(stored)
    print(f"pushed {snapshot.created} by {snapshot.by}{source}")
    print(f"{', '.join(names) or 'no name'}; {in_bytes(snapshot.size)}")
    columns = [Column("path", folds=True), Column("size"), Column("digest", shortens=True)]
    grid = Grid(columns, boxed=False)
    for file in snapshot.all_files:
        grid.add(file.path, in_bytes(file.size), of_digest(file.digest))
    for folder in snapshot.folders:
        grid.add(f"{folder}/", "", "")
    return terminal.show(grid, wide)


def verified(found: Verified, as_json: bool) -> None:
    """The answer of `verify`."""
    if as_json:
        document = {"done": not found.damages, **asdict(found)}
        return print(json.dumps(document, indent=2))
    for damage in found.damages:
        print(damage)
    read = f"{found.snapshots} snapshots, {found.blobs} blobs, {in_bytes(found.size)}"
    if found.damages:
        return print(
            f"{read}: damaged: {len(found.damages)}; `triton-sidecar model push NAME "
            "FOLDER --verify` replaces corrupt blobs, `model copy` brings missing ones"
        )
    return print(f"{read}: intact")


def tagged(name: Reference, stored: Stored, changed: bool, as_json: bool) -> None:
    """The answer of `tag`."""
    if as_json:
        return _print(**_identity(stored), name=str(name), changed=changed)
    return print(f"{name} is {of_digest(stored.digest)}{'' if changed else ' already'}")


def copied(done: Sequence[Copied], as_json: bool) -> None:
    """The answer of `copy`; names that stay as they are go to standard error."""
    conflicts = [conflict for each in done for conflict in each.conflicts]
    for conflict in conflicts:
        print(f"triton-sidecar: {conflict}", file=sys.stderr)
    if as_json:
        found = [
            {**_identity(each.stored), "tags": each.tags, "new": each.new, "present": each.present}
            for each in done
        ]
        return _print(done=not conflicts, copied=found, conflicts=conflicts)
    for each in done:
        model = each.stored.snapshot.model
        called = ", ".join(f"{model}:{tag}" for tag in each.tags) or str(each.stored)
        print(f"{called}: {in_bytes(each.new)} copied, {in_bytes(each.present)} known")
    return print("nothing to copy") if not done else None


def collected(done: Collected, dry_run: bool, as_json: bool) -> None:
    """The answer of `gc`."""
    if as_json:
        found = [{**_identity(each), **_origin(each)} for each in done.snapshots]
        more = {"blobs": done.blobs, "bytes": done.size, "bytes_before": done.before}
        return _print(dry_run=dry_run, snapshots=found, **more)
    for each in done.snapshots:
        print(f"{each}, {in_bytes(each.snapshot.size)}, pushed {each.snapshot.created}")
    verb = "would be removed" if dry_run else "removed"
    return print(
        f"{len(done.snapshots)} snapshots and {done.blobs} blobs {verb}: {in_bytes(done.size)} of "
        f"{in_bytes(done.before)}"
    )


def removed(name: Reference, was: Tag, as_json: bool) -> None:
    """The answer of `rm`."""
    if as_json:
        return _print(name=str(name), digest=of_digest(was.digest))
    print(f"{name} was {of_digest(was.digest)}; to undo this before `gc` removes that:")
    snapshot = Reference(name.model, digest=was.digest)
    return print(f"triton-sidecar model tag {snapshot} {name.tag}")


def _identity(stored: Stored) -> dict[str, object]:
    return {"model": stored.snapshot.model, "digest": of_digest(stored.digest)}


def _origin(stored: Stored) -> dict[str, object]:
    snapshot = stored.snapshot
    return {
        "created": snapshot.created,
        "by": snapshot.by,
        "from": snapshot.source,
        "size": snapshot.size,
    }


def _print(*, done: object = True, **fields: object) -> None:
    print(json.dumps({"done": done, **fields}, indent=2))
