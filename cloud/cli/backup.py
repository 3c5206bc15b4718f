"""``shoal backup`` and ``shoal restore``: the whole cloud in one file, and back, on SQLite or PostgreSQL."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker.settings import read_config
from cloud.cli.options import WORKSPACE, JsonOption, emit, examples

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cloud.store.archive import Manifest

CLOUD_FILE = WORKSPACE / "cloud.toml"  # written by `shoal up`

CloudConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="The cloud's TOML file (default: .shoal/cloud.toml, if it is there).",
        show_default=False,
    ),
]
DataOption = Annotated[
    Path | None, typer.Option(help="The cloud's data folder, instead of the file's.", show_default=False)
]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store", help="The store's URL: sqlite:///path, postgresql://user@host/db.", show_default=False
    ),
]


def backup(app: typer.Typer) -> None:
    """Add the two commands."""
    making = examples(
        "shoal backup monday.shoal-backup",
        "shoal backup monday.shoal-backup --keys --json",
        "shoal backup db.shoal-backup --no-artifacts --data /var/lib/shoal --store postgresql://shoal@db/shoal",
    )
    app.command(name="backup", epilog=making)(_backup)
    taking = examples(
        "shoal restore monday.shoal-backup --check     # only read and prove it",
        "shoal restore monday.shoal-backup --data new/cloud",
        "shoal restore monday.shoal-backup --store postgresql://shoal@db/shoal     # from SQLite as well",
    )
    app.command(name="restore", epilog=taking)(_restore)


def _backup(
    file: Annotated[Path, typer.Argument(help="The file to write.")],
    config: CloudConfigOption = None,
    data: DataOption = None,
    store: StoreOption = None,
    artifacts: Annotated[bool, typer.Option(help="Put the models' files in.")] = True,
    keys: Annotated[
        bool, typer.Option("--keys", help="Put the secret keys in. Guard the file like them.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE.")] = False,
    json: JsonOption = False,
) -> None:
    """Write everything that the cloud must not lose into one file, while it runs.

    In it: every table (nodes, models, deployments, tasks, telemetry, ...) as of
    one moment, and the files of the data folder (models, audit log, ...).

    Not in it: secret keys, unless --keys; the broker's passwords and the
    configuration files, which are outside of the data folder.
    """
    from cloud.store.backup import Choice, back_up

    folder, url = _where(config, data, store)
    with _bars("backing up", quiet=json) as told:
        manifest = back_up(url, folder, file, Choice(artifacts, keys), told, replace=force)
    found = {"file": str(file), "size_bytes": file.stat().st_size, **_summary(manifest)}
    emit(found, json, lambda: _page(found))


def _restore(
    file: Annotated[Path, typer.Argument(help="What 'shoal backup' wrote.")],
    config: CloudConfigOption = None,
    data: DataOption = None,
    store: StoreOption = None,
    check: Annotated[bool, typer.Option("--check", help="Read and prove the file, change nothing.")] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Also over a store or folder that is not empty; files are set aside."),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Put a backup in place of what the cloud holds. Stop the cloud first.

    Every byte is compared with the backup's digests before anything is changed,
    and every table again after it was written.

    A backup of one database restores into the other.
    """
    from cloud.store.archive import reading
    from cloud.store.restore import restore

    with reading(file) as archive:
        found: dict[str, Any] = {"file": str(file), **_summary(archive.manifest)}
        with _bars("checking" if check else "restoring", quiet=json) as told:
            if check:
                archive.check(told)
            else:
                folder, url = _where(config, data, store)
                found |= {"data": str(folder), "set_aside": restore(archive, url, folder, told, force=force)}
    emit(found, json, lambda: _page(found))


def _where(config: Path | None, data: Path | None, store: str | None) -> tuple[Path, str]:
    """The data folder and the URL, as the cloud itself would choose them."""
    from cloud.store.store import DATABASE_FILE, Store

    if config is None and CLOUD_FILE.exists():
        config = CLOUD_FILE
    chosen = {"data": None if data is None else str(data), "store": store}
    cloud = read_config(config, {"cloud": chosen}).cloud
    folder = Path(cloud.data).absolute()
    return folder, cloud.store or Store.url_of(folder / DATABASE_FILE)


def _summary(manifest: "Manifest") -> dict[str, Any]:
    return {
        "made_at_unix_s": manifest.made_at_unix_s,
        "version": manifest.version,
        "revision": manifest.revision,
        "database": manifest.database,
        "cloud_key": manifest.cloud_key,
        "tables": {name: {"rows": one.rows, "sha256": one.sha256} for name, one in manifest.tables.items()},
        "files": {
            name: {"size_bytes": one.size_bytes, "sha256": one.sha256} for name, one in manifest.files.items()
        },
        "left_out": manifest.left_out,
    }


def _page(found: dict[str, Any]) -> "RenderableType":
    import time

    from cloud.cli.show import bytes_text, facts_table

    made = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(found["made_at_unix_s"]))
    rows = sum(one["rows"] for one in found["tables"].values())
    facts = [("file", found["file"])]
    if "size_bytes" in found:
        facts.append(("size", bytes_text(found["size_bytes"])))
    facts += [
        ("of", f"{found['database']}, shoal {found['version']}, {made}"),
        ("tables", f"{len(found['tables'])} with {rows:,} rows"),
        ("files", f"{len(found['files'])}"),
    ]
    if "data" in found:
        facts.append(("restored into", found["data"]))
    if found.get("set_aside"):
        facts.append(("what was there", found["set_aside"]))
    facts += [(f"not in it: {name}", reason) for name, reason in sorted(found["left_out"].items())[:20]]
    return facts_table(facts)


@contextmanager
def _bars(what: str, *, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """On standard error, and only where a person looks."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    nobody = quiet or not sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), disable=nobody, transient=True) as bars:
        task = bars.add_task(what)

        def told(name: str, number: int, of: int) -> None:
            bars.update(task, description=f"{what} {name[:40]}", completed=number, total=of)

        yield told
