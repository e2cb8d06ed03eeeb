"""`triton-sidecar model`: snapshots of model folders, stored once, verified, and named."""

from pathlib import Path
from typing import Annotated

import typer

from sidecar.cli.exit_status import epilog
from sidecar.cli.model import cleaning, options
from sidecar.cli.model.options import STATUS, UNREACHED, Config, Move, Name, Names, Store, opened
from sidecar.cli.operator.connect import Json, Wide

app = typer.Typer(
    help="Push, pull, list and verify snapshots of models in a store.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
cleaning.add_to(app)


@app.command(epilog=STATUS)
def push(
    name: Annotated[str, typer.Argument(metavar="NAME", help="MODEL, or MODEL:TAG to name it.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The model's folder.")],
    source: Annotated[
        str,
        typer.Option("--from", metavar="TEXT", help="Where it is from, such as a commit."),
    ] = "",
    canaries: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="The folder of canary.toml and what belongs to it. Default: the model's.",
            show_default=False,
        ),
    ] = None,
    move: Move = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Read blobs that are there, and replace corrupt ones."),
    ] = False,
    store: Store = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Store a model's folder as a snapshot. What the store has is not sent again.

    Only hidden files and Python bytecode are left out; links are followed. A stop at any moment
    leaves the store valid, and the same command resumes the push.
    """
    from sidecar.cli.model import text_output
    from sidecar.models.store.documents import names
    from sidecar.models.store.push import PushRequest
    from sidecar.models.store.push import push as push_
    from sidecar.runtime.errors import ConfigError

    with opened(store, config, as_json) as backend, options.progress() as progress:
        wanted = names.reference(name)
        if wanted.digest:
            raise ConfigError(f"expected MODEL or MODEL:TAG, found {name!r:.100}")
        request = PushRequest(
            *(folder, wanted, options.now(), options.operator(), source, move, verify, canaries)
        )
        done = push_(backend, request, progress)
    text_output.pushed(wanted, done, as_json)


@app.command(epilog=STATUS)
def pull(
    name: Name,
    to: Annotated[
        Path, typer.Option("--to", metavar="FOLDER", help="The model's folder that is made.")
    ],
    copy: Annotated[
        bool, typer.Option("--copy", help="Make copies, which may be edited, and no links.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the folder of a model, as a whole.")
    ] = False,
    store: Store = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Make a model's folder from a snapshot, verified, as a whole or not at all.

    From a store on the same file system, files are reflinks, or hard links: these are read-only,
    because editing one would edit the store. After a stop, the same command resumes the pull.
    """
    from sidecar.cli.model import text_output
    from sidecar.models.store import contents
    from sidecar.models.store.documents import names
    from sidecar.models.store.pull import pull as pull_

    with opened(store, config, as_json) as backend, options.progress() as progress:
        found = contents.resolve(backend, names.reference(name))
        done = pull_(backend, found, to, progress, copy=copy, replace=replace)
    text_output.pulled(found, to, done, as_json)


@app.command("list", epilog=STATUS)
def list_(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Only this model.", show_default=False)
    ] = None,
    store: Store = None,
    config: Config = None,
    as_json: Json = False,
    wide: Wide = False,
) -> None:
    """List the snapshots, with their names; the newest first."""
    from sidecar.cli.model import text_output
    from sidecar.models.store import contents
    from sidecar.models.store.documents import names
    from sidecar.models.store.documents.names import Reference
    from sidecar.runtime.errors import ConfigError, NotFound

    with opened(store, config, as_json) as backend:
        if model and names.reference(model) != Reference(model):
            raise ConfigError(f"expected MODEL, found {model!r:.100}; `show` shows one snapshot")
        found = contents.listing(backend, model or "")
        if model and not found:
            raise NotFound(f"{backend.place} has no snapshot of {model}")
    text_output.listed(found, as_json, wide)


@app.command(epilog=STATUS)
def show(
    name: Name,
    store: Store = None,
    config: Config = None,
    as_json: Json = False,
    wide: Wide = False,
) -> None:
    """Show a snapshot: who pushed it when, its names, and its files."""
    from sidecar.cli.model import text_output
    from sidecar.models.store import contents
    from sidecar.models.store.documents import names

    with opened(store, config, as_json) as backend:
        found = contents.resolve(backend, names.reference(name))
        tags = contents.named(backend, found.snapshot.model)
    text_output.shown(found, tags, as_json, wide)


@app.command(epilog=epilog("all of it is intact", "something is damaged", UNREACHED))
def verify(
    given: Names = None, store: Store = None, config: Config = None, as_json: Json = False
) -> None:
    """Read everything that snapshots refer to, and tell what is missing or corrupt.

    Without names, all snapshots. A push of the same files with --verify replaces corrupt blobs.
    """
    from sidecar.cli.model import text_output
    from sidecar.models.store import verification
    from sidecar.models.store.documents import names

    with opened(store, config, as_json) as backend, options.progress() as progress:
        wanted = [names.reference(each) for each in given or ()]
        found = verification.verify(backend, wanted, progress)
    text_output.verified(found, as_json)
    if found.damages:
        raise typer.Exit(1)


@app.command(epilog=STATUS)
def tag(
    name: Name,
    new: Annotated[str, typer.Argument(metavar="TAG", help="The additional tag.")],
    move: Move = False,
    store: Store = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Give a snapshot another name. A name that another snapshot has moves only with --move."""
    from sidecar.cli.model import text_output
    from sidecar.models.store import contents, naming
    from sidecar.models.store.documents import names

    with opened(store, config, as_json) as backend:
        wanted = names.reference(name)
        target = names.reference(f"{wanted.model}:{new}")
        found = contents.resolve(backend, wanted)
        request = naming.NamingRequest(target, options.now(), options.operator(), move)
        changed = naming.tag(backend, found, request)
    text_output.tagged(target, found, changed, as_json)


@app.command(epilog=STATUS)
def copy(
    source: Annotated[str, typer.Argument(metavar="SRC", help="The store to copy from.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="The store to copy to.")],
    given: Names = None,
    move: Move = False,
    as_json: Json = False,
) -> None:
    """Copy snapshots with their names to another store; without names, all that are named.

    What is there is not sent again. Names go last, with their history and its snapshots; one that
    has moved on here moves there too. A name with a snapshot that it never had here is reported
    and left as it is, unless --move is given.
    """
    from sidecar.cli.model import text_output
    from sidecar.models.store import transfer
    from sidecar.models.store.documents import names
    from sidecar.models.store.places import location

    remote = location.is_remote(source) or location.is_remote(target)
    with options.ending(as_json, remote=remote), options.progress() as progress:
        wanted = [names.reference(each) for each in given or ()]
        from_, to = location.backend(source), location.backend(target)
        chosen = transfer.chosen(from_, wanted)
        done = transfer.copy(from_, to, chosen, progress, move=move)
    text_output.copied(done, as_json)
    if any(each.conflicts for each in done):
        raise typer.Exit(1)


def add_to(parent: typer.Typer) -> None:
    """Add the verbs."""
    parent.add_typer(app, name="model")
