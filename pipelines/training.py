"""The daily training pipeline: from the ledger to a registered bundle, proposed or blocked."""

from typing import NamedTuple

from kfp import dsl

from components.bundle.component import bundle
from components.calibrate.component import calibrate
from components.embed.component import embed
from components.evaluate.component import evaluate
from components.ingest.component import ingest
from components.judge.component import judge
from components.prove.component import prove
from components.register.component import register
from components.resolve.component import resolve
from components.skew.component import skew
from components.snapshot.component import snapshot
from components.train.component import train
from components.tune.component import tune
from components.validate.component import validate
from pipelines.resources import CLUSTER_HOME, on_cluster
from pipelines.steps import STEP_NAMES


class Outputs(NamedTuple):
    """What a run of the pipeline gives."""

    digest: str
    registered_version: str
    state: str
    outcome: dsl.Artifact
    table: dsl.Dataset


@dsl.pipeline(  # type: ignore[untyped-decorator]  # kfp has no types
    name="training", description="Train, prove, judge and register one day's bundle."
)
def training(  # noqa: PLR0913  # every parameter of a run is one of the pipeline
    logical_date: str,
    data_version: str,
    code_digest: str,
    config_digest: str,
    policies: str,
    release_contract: str,
    release_profile: str = "standard",
    profile: str = "small",
    seed: int = 17,
    num_trials: int = 12,
    min_positives: int = 30,
    num_gpus: int = 0,
    home: str = CLUSTER_HOME,
    study_url: str = "",
    prior_study: str = "auto",
    tracking_url: str = "",
    git_commit: str = "",
) -> Outputs:
    """Wire the steps; `version` makes what leads to a bundle valid for one state of data, code and settings."""
    version = f"{data_version}:{code_digest}:{config_digest}"
    here = {"home": home, "version": version}

    rows = ingest(logical_date=logical_date, policies=policies, **here)
    compared = skew(logical_date=logical_date, **here).after(rows)
    valid = validate(rows=rows.outputs["rows"], policies=policies, **here)
    frozen = snapshot(
        rows=rows.outputs["rows"],
        accepted=valid.outputs["accepted"],
        logical_date=logical_date,
        policies=policies,
        min_positives=min_positives,
        **here,
    )
    table = frozen.outputs["table"]
    embedded = embed(table=table, profile=profile, seed=seed, **here)
    inputs = {"table": table, "embeddings": embedded.outputs["embeddings"], "version": version}
    tuned = tune(
        **inputs,
        home=home,
        profile=profile,
        logical_date=logical_date,
        study_url=study_url,
        prior_study=prior_study,
        num_trials=num_trials,
        seed=seed,
    )
    config = tuned.outputs["config"]
    trained = train(**inputs, config=config, seed=seed)
    model = trained.outputs["model"]
    calibrated = calibrate(
        **inputs, model=model, policies=policies, contract=release_contract, seed=seed
    )
    bundled = bundle(
        table=table,
        towers=embedded.outputs["towers"],
        config=config,
        model=model,
        calibration=calibrated.outputs["calibration"],
        profile=profile,
        seed=seed,
        code_digest=code_digest,
        config_digest=config_digest,
        version=version,
    )
    release = bundled.outputs["release"]
    evaluated = evaluate(
        table=table, model=model, release=release, policies=policies, seed=seed, **here
    )
    # Nobody spends minutes on the proof of a bundle that must not be served.
    opponent = resolve(release=release, tracking_url=tracking_url, **here).after(evaluated)
    proved = prove(
        table=table,
        release=release,
        champion=opponent.outputs["Output"],
        contract=release_contract,
        policies=policies,
        profile=release_profile,
        seed=seed,
        **here,
    )
    judged = judge(
        evidence=proved.outputs["evidence"],
        release=release,
        contract=release_contract,
        profile=release_profile,
        seed=seed,
        **here,
    )
    kept = register(
        table=table,
        config=config,
        release=release,
        figures=evaluated.outputs["figures"],
        report=evaluated.outputs["report"],
        outcome=judged.outputs["outcome"],
        pack=judged.outputs["pack"],
        home=home,
        tracking_url=tracking_url,
        logical_date=logical_date,
        data_version=data_version,
        code_digest=code_digest,
        git_commit=git_commit,
        version=version,
    )
    fitted = (rows, compared, valid, frozen, embedded, tuned, trained, calibrated, bundled)
    steps = (*fitted, evaluated, opponent, proved, judged, kept)
    # Since the last run the champion may be another one, and more is decided and known of the same listings: `version`
    # says nothing of that. Embeddings are kept beside the steps, so a proof of known rows costs no tower.
    for task in (compared, opponent, proved, judged, kept):
        task.set_caching_options(False)
    for task, step in zip(steps, STEP_NAMES, strict=True):
        on_cluster(task, step, num_gpus)
    return Outputs(
        digest=bundled.outputs["Output"],
        registered_version=kept.outputs["Output"],
        state=judged.outputs["Output"],
        outcome=judged.outputs["outcome"],
        table=table,
    )
