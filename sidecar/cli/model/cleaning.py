"""`triton-sidecar model gc` and `rm`: what is removed from a store."""

from typing import Annotated

import typer

from sidecar.cli import numbers
from sidecar.cli.model.options import STATUS, Config, Name, Store, opened
from sidecar.cli.operator.connect import Json


def gc(
    grace: Annotated[
        str, typer.Option(metavar="TIME", help="Keep what is younger, such as 24h.")
    ] = "24h",
    last: Annotated[
        int,
        typer.Option(
            metavar="COUNT",
            parser=numbers.whole(1, 50),
            help="Keep the last snapshots of each name, the current one included.",
        ),
    ] = 2,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="DIGEST", help="Keep this snapshot. Repeatable.", show_default=False),
    ] = None,
    until_free: Annotated[
        str | None,
        typer.Option(
            metavar="PERCENT",
            help="Stop when so much of the disk is free, such as 20%.",
            show_default=False,
        ),
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Stop when the blobs have at most this size, such as 500GB.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be removed; remove nothing.")
    ] = False,
    store: Store = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Remove snapshots that no name needs, and blobs that no snapshot has; the oldest first.

    Kept are: the snapshot of each name and the one before (--last), those of --keep, and what is
    younger than --grace, such as a push in progress. `gc` does not know what instances have
    loaded: name it, or give it with --keep. Pulled folders stay complete.
    """
    from sidecar.cli.model import marks, text_output
    from sidecar.models.store import collection, contents
    from sidecar.models.store.documents import names
    from sidecar.models.store.retention import RetentionRules

    with opened(store, config, as_json) as backend:
        digests = map(names.digest_of, keep or ())
        kept = frozenset(contents.read(backend, digest).digest for digest in digests)
        rules = RetentionRules(last, kept, marks.grace(grace))
        watermarks = collection.Watermarks(marks.share(until_free), marks.size(max_size))
        done = collection.collect(backend, rules, watermarks, dry_run=dry_run)
    text_output.collected(done, dry_run, as_json)


def rm(name: Name, store: Store = None, config: Config = None, as_json: Json = False) -> None:
    """Remove a name, MODEL:TAG.

    Its snapshot stays until `gc` removes it, whose --grace begins now. Prints how to undo this.
    """
    from sidecar.cli.model import text_output
    from sidecar.models.store import naming
    from sidecar.models.store.documents import names
    from sidecar.runtime.errors import ConfigError

    with opened(store, config, as_json) as backend:
        wanted = names.reference(name)
        if not wanted.tag:
            raise ConfigError(f"expected MODEL:TAG, found {name!r:.100}; `gc` removes snapshots")
        was = naming.remove(backend, wanted)
    text_output.removed(wanted, was, as_json)


def add_to(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command(epilog=STATUS)(gc)
    app.command(epilog=STATUS)(rm)
