"""Record the bundle in the registry with its lineage and what the gates made of it."""

from kfp import dsl

from components.base import component


@component
def register(
    table: dsl.Input[dsl.Dataset],
    config: dsl.Input[dsl.Artifact],
    release: dsl.Input[dsl.Model],
    figures: dsl.Input[dsl.Artifact],
    report: dsl.Input[dsl.HTML],
    outcome: dsl.Input[dsl.Artifact],
    pack: dsl.Input[dsl.Artifact],
    home: str,
    tracking_url: str,
    logical_date: str,
    data_version: str,
    code_digest: str,
    git_commit: str,
    version: str,
    registered: dsl.Output[dsl.Artifact],
) -> str:
    """Make a proposed bundle the candidate, or the champion if it is the first; a blocked one gets no name."""
    from components.outputs import log_record
    from components.register import step

    lineage = {"logical_date": logical_date, "data": data_version, "code": code_digest}
    lineage |= {"git_commit": git_commit, "study": config.metadata["study"]}
    lineage |= {"snapshot": table.metadata["digest"], "table": table.path}
    parts = step.RegisterInputs(release.path, figures.path, report.path, outcome.path, pack.path)
    done = step.run(parts, lineage, home, tracking_url)
    log_record(registered, done | {"run": version})
    return str(done["version"])
