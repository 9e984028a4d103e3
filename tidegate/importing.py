"""The user's own listings in the ledger."""

from dataclasses import dataclass
from pathlib import Path

from components.home import Home
from ledger.importing import Destination, ImportReport, Source, import_listings, open_source
from ledger.ledger import SqliteLedger
from ledger.store import ContentStore
from moderation.clock import SystemClock
from moderation.policy import load_policies
from moderation.settings import Settings
from tidegate.console import console, say
from tidegate.training import with_policies


@dataclass(frozen=True)
class Imported:
    """What an import did, and the policies that its truth speaks of."""

    report: ImportReport
    policy_file: Path


def import_shown(
    data: Path, home: Home, config: Settings, *, mapping: Path | None, policies: Path | None
) -> Imported:
    """Import a table with the number of rows shown as it grows.

    The policies are the given ones, else those that the mapping names, else those of the settings.

    Raises:
        PermanentError: if table, mapping and policies do not fit each other, or no row is good.
    """
    known = load_policies(policies or config.policy_file)
    source = open_source(data, known.ids, mapping=mapping)
    policy_file = policies or source.found.policies or config.policy_file
    with console.status("reading rows ...") as status:
        report = import_listings(
            source,
            load_policies(policy_file),
            Destination(SqliteLedger(home.ledger), ContentStore(home.content), home.imported),
            SystemClock(),
            on_progress=lambda rows: status.update(f"reading rows ... {rows:,}"),
        )
    show_mapping(source)
    say(report.summary(), markup=False)
    return Imported(report, policy_file)


def show_mapping(source: Source) -> None:
    """Say which column was taken for what."""
    fields = source.found.mapping.fields()
    said = ", ".join(f"{name} = {'|'.join(columns)}" for name, columns in fields.items() if columns)
    say(f"columns: {said}", markup=False)


def import_data(data: Path, *, mapping: Path | None, policies: Path | None) -> None:
    """Import a table into the home folder and say how to go on."""
    config = with_policies(None)
    imported = import_shown(data, Home(config.home), config, mapping=mapping, policies=policies)
    say(f"next: tidegate train --policies {imported.policy_file}", markup=False)
