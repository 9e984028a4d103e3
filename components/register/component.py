"""Record the bundle in the registry with its lineage."""

from kfp import dsl

from components.base import component


@component
def register(
    table: dsl.Input[dsl.Dataset],
    config: dsl.Input[dsl.Artifact],
    release: dsl.Input[dsl.Model],
    figures: dsl.Input[dsl.Artifact],
    report: dsl.Input[dsl.HTML],
    home: str,
    tracking_url: str,
    logical_date: str,
    data_version: str,
    code_digest: str,
    git_commit: str,
    version: str,
    registered: dsl.Output[dsl.Artifact],
) -> str:
    """Make the bundle a candidate; the first one, with nothing to compare with, becomes champion."""
    from components.outputs import log_record
    from components.register import step

    lineage = {"logical_date": logical_date, "data": data_version, "code": code_digest}
    lineage |= {"git_commit": git_commit, "study": config.metadata["study"]}
    lineage |= {"snapshot": table.metadata["digest"]}
    done = step.run(release.path, figures.path, report.path, lineage, home, tracking_url)
    log_record(registered, done | {"run": version})
    return str(done["version"])
