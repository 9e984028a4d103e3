"""Judge the evidence by the release contract."""

from kfp import dsl

from components.base import component


@component
def judge(
    evidence: dsl.Input[dsl.Artifact],
    release: dsl.Input[dsl.Model],
    home: str,
    contract: str,
    profile: str,
    seed: int,
    version: str,
    outcome: dsl.Output[dsl.Artifact],
    pack: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
    verdicts: dsl.Output[dsl.Metrics],
    curve: dsl.Output[dsl.ClassificationMetrics],
) -> str:
    """Propose the candidate, or block it with the reasons; either is attested and explained in the pack."""
    from components.judge import step
    from components.outputs import log_metrics, log_roc

    inputs = step.JudgeInputs(evidence.path, release.path, home)
    done = step.run(inputs, contract, profile, seed, pack=pack.path)
    done.save(outcome.path)
    shown = step.for_dashboard(inputs, pack.path, page=page.path, summary=summary.path)
    log_metrics(verdicts, shown.metrics)
    log_roc(curve, shown.roc)
    page.metadata["version"] = version
    return done.state
