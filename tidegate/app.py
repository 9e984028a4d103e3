"""The command line: what there is to call, and nothing heavy until it is called."""

from pathlib import Path
from typing import Annotated

import typer

from tidegate.audit_commands import audit_app
from tidegate.bank_commands import banks_app
from tidegate.enforcement_commands import enforcement_app
from tidegate.feature_commands import features_app
from tidegate.golden_commands import golden_app
from tidegate.options import (
    Data,
    Engine,
    Mapping,
    Named,
    Policies,
    Profile,
    ReleaseProfile,
    Seed,
)
from tidegate.privacy_commands import privacy_app

app = typer.Typer(
    name="tidegate",
    help="The model platform behind a marketplace's upload gate.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)
simulate_app = typer.Typer(rich_markup_mode="rich")
bundle_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
gates_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
pipelines_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(simulate_app, name="simulate")
app.add_typer(bundle_app, name="bundle", help="Look at a trained bundle.")
app.add_typer(gates_app, name="gates", help="Judge bundles by the release contract.")
app.add_typer(golden_app, name="golden", help="The frozen listings that candidates are judged on.")
app.add_typer(banks_app, name="banks", help="Known images that stage 1 looks up.")
app.add_typer(features_app, name="features", help="The feature store: what sellers did.")
app.add_typer(
    enforcement_app,
    name="enforcement",
    help="Blocking and suspending without a person: stop it, let it go on.",
)
app.add_typer(audit_app, name="audit", help="Estimates from uploads that were drawn at random.")
app.add_typer(privacy_app, name="privacy", help="Erase a seller, and see what was erased.")
app.add_typer(pipelines_app, name="pipelines", help="Compile, run or submit the pipelines.")


@app.command()
def demo(
    data: Data = None,
    mapping: Mapping = None,
    policies: Policies = None,
    seed: Seed = 7,
) -> None:
    """Run the main job end to end: data, training, registry, serving, decisions.

    Example: [cyan]tidegate demo[/], or [cyan]tidegate demo --data listings.parquet --mapping mapping.yaml[/]
    """
    from tidegate.demo import run

    run(data=data, mapping=mapping, policies=policies, seed=seed)


@simulate_app.callback(invoke_without_command=True)
def simulate(
    context: typer.Context,
    size: Annotated[str, typer.Option(help="tiny, demo or default.")] = "default",
    days: Annotated[
        int | None, typer.Option(min=1, help="Length; the size's own if absent.")
    ] = None,
    seed: Seed = 7,
) -> None:
    """Build a marketplace with sellers, listings, evasion and late truth in the ledger.

    Example: [cyan]tidegate simulate --size demo --seed 7[/]
    """
    if context.invoked_subcommand is None:
        from tidegate.world import simulate

        simulate(size=size, days=days, seed=seed)


@simulate_app.command()
def audit(seed: Seed = 7) -> None:
    """Check the simulated world itself; exits non-zero when it gives its answers away.

    Example: [cyan]tidegate simulate audit --seed 7[/]
    """
    from tidegate.world import audit

    raise typer.Exit(audit(seed=seed))


@app.command("import")
def import_data(
    data: Annotated[Path, typer.Argument(help="Parquet file, or folder with a CSV and images.")],
    mapping: Mapping = None,
    policies: Policies = None,
) -> None:
    """Read your own listings into the ledger, and report what is missing or bad row by row.

    Example: [cyan]tidegate import listings.parquet --mapping mapping.yaml --policies policies.yaml[/]
    """
    from tidegate.importing import import_data as run

    run(data, mapping=mapping, policies=policies)


@app.command()
def train(  # noqa: PLR0913  # every one is an option of the command
    date: Annotated[
        str | None,
        typer.Option(help="Logical date; the day after the newest truth if absent."),
    ] = None,
    profile: Profile = "small",
    policies: Policies = None,
    seed: Seed = 17,
    trials: Annotated[int, typer.Option(min=0, help="Trials of the hyperparameter study.")] = 12,
    min_positives: Annotated[
        int, typer.Option(min=1, help="Known violations per policy to train and to test on.")
    ] = 30,
    release_profile: ReleaseProfile = "standard",
) -> None:
    """Run the daily training pipeline on this machine; it ends in a proposed bundle, or a blocked one with reasons.

    Example: [cyan]tidegate train --date 2026-11-20[/]
    """
    from pipelines.parameters import Choices
    from tidegate.training import run_and_show

    chosen = Choices(
        date, profile, seed, trials, min_positives=min_positives, release_profile=release_profile
    )
    run_and_show(chosen, policies=policies)


@app.command()
def evaluate(
    bundle: Annotated[
        Path | None,
        typer.Option(help="Folder of a bundle; the champion, or else the newest, if absent."),
    ] = None,
) -> None:
    """Show the recorded evaluation of a bundle.

    Example: [cyan]tidegate evaluate[/]
    """
    from tidegate.bundles import show_evaluation

    show_evaluation(bundle)


@app.command()
def serve(
    bundle: Annotated[
        Path | None, typer.Option(help="Folder of a bundle; the champion if absent.")
    ] = None,
    policies: Policies = None,
    explainer: Annotated[
        bool, typer.Option("--explainer", help="Also explain scores to reviewers; takes torch.")
    ] = False,
) -> None:
    """Serve a bundle that passed the gates: predictor and gateway as processes on the loopback, until Ctrl-C.

    Example: [cyan]tidegate serve[/], then [cyan]tidegate decide --title "water gun"[/]
    """
    from tidegate.serving import serve

    serve(bundle=bundle, policies=policies, with_explainer=explainer)


@app.command()
def decide(
    file: Annotated[
        Path | None, typer.Argument(help='JSON: {"listing": {...}, "images": [paths]}.')
    ] = None,
    title: Annotated[str, typer.Option(help="Title of the listing.")] = "",
    description: Annotated[str, typer.Option(help="Description of the listing.")] = "",
    image: Annotated[list[Path] | None, typer.Option(help="Image file; repeat for more.")] = None,
    url: Annotated[
        str | None, typer.Option(help="Gateway; the one that `tidegate serve` runs here if absent.")
    ] = None,
) -> None:
    """Send one listing to the running gateway and show its decision.

    Example: [cyan]tidegate decide --title "water gun" --image photo.jpg[/]
    """
    from tidegate.deciding import decide_one

    decide_one(file, title=title, description=description, images=image or [], url=url)


@app.command()
def load(  # noqa: PLR0913  # every one is an option of the command
    rate: Annotated[float, typer.Option(min=0.01, help="Uploads per second.")] = 20.0,
    duration: Annotated[float, typer.Option(min=0.1, help="Seconds that count.")] = 30.0,
    warmup: Annotated[float, typer.Option(min=0.0, help="Seconds before them.")] = 5.0,
    poisson: Annotated[
        int | None, typer.Option(help="Seed of random instants; evenly spaced ones if absent.")
    ] = None,
    max_in_flight: Annotated[int, typer.Option(min=1, help="What comes on top is dropped.")] = 2000,
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds that an upload may take.")
    ] = 10,
    listing: Annotated[
        list[Path] | None,
        typer.Option(help="File as for `tidegate decide`; repeat for more; unseen ones if absent."),
    ] = None,
    limit: Annotated[
        list[str] | None, typer.Option(help="name=number, as in p99=500; repeat for more.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Gateway; the one that `tidegate serve` runs here if absent.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSON report.")] = None,
) -> None:
    """Send uploads at a constant rate, whatever the answers do: exit code 0, 1 past a limit, 2 could not measure.

    Latency is counted from the planned instant. The gateway records every upload.

    Example: [cyan]tidegate load --rate 100 --duration 60 --limit p99=500 --limit errors=0.001[/]
    """
    from tidegate.loading import Run, run_load

    run = Run(rate, duration, warmup, poisson, max_in_flight, timeout)
    raise typer.Exit(run_load(run, listing or [], limits=limit or [], url=url, out=out))


@app.command()
def replay(
    trace_id: Annotated[str, typer.Argument(help="Trace id of a recorded decision.")],
    bundle: Annotated[
        Path | None, typer.Option(help="Folder of the bundle; found by its digest if absent.")
    ] = None,
    policies: Policies = None,
) -> None:
    """Take one recorded decision again: from its signals bit for bit, and re-scored from its inputs.

    Example: [cyan]tidegate replay 4bf92f3577b34da6a3ce929d0e0e4736[/]
    """
    from tidegate.replaying import replay_decision

    raise typer.Exit(replay_decision(trace_id, bundle, policies))


@app.command()
def explain(
    trace_id: Annotated[str, typer.Argument(help="Trace id of a recorded decision.")],
    policy: Annotated[str | None, typer.Option(help="The highest score's if absent.")] = None,
    out: Annotated[Path | None, typer.Option(help="HTML file; in the home if absent.")] = None,
    url: Annotated[str | None, typer.Option(help="Gateway; the running one if absent.")] = None,
) -> None:
    """Show a reviewer why a decision scored as it did: members, words, features; images with their heat as HTML.

    Example: [cyan]tidegate serve --explainer[/], then [cyan]tidegate explain 4bf92f3577b34da6a3ce929d0e0e4736[/]
    """
    from tidegate.explaining import explain

    explain(trace_id, policy=policy, out=out, url=url)


@bundle_app.command()
def show(path: Annotated[Path, typer.Argument(help="Folder of the bundle.")]) -> None:
    """Show what a bundle is made of, from what, and what was attested about it.

    Example: [cyan]tidegate bundle show build/home/bundles/4f2a...[/]
    """
    from tidegate.bundles import show_bundle

    show_bundle(path)


@bundle_app.command()
def verify(path: Annotated[Path, typer.Argument(help="Folder of the bundle.")]) -> None:
    """Check every byte of a bundle against its digest; exits non-zero when it was altered.

    Example: [cyan]tidegate bundle verify build/home/bundles/4f2a...[/]
    """
    from tidegate.bundles import verify_bundle

    verify_bundle(path)


@bundle_app.command()
def quantise(bundle: Named, engine: Engine) -> None:
    """Derive a bundle's int8 graphs for one engine; nothing answers with them until `parity` has passed.

    Example: [cyan]tidegate bundle quantise champion --engine openvino-int8[/]
    """
    from tidegate.engines import quantise_bundle

    quantise_bundle(bundle, engine)


@bundle_app.command()
def parity(
    bundle: Named,
    engine: Engine,
    table: Annotated[
        Path | None, typer.Option(help="Snapshot it was trained on; the recorded one if absent.")
    ] = None,
    seed: Seed = 17,
) -> None:
    """Compare an engine with the reference on real listings, and attest it: exit code 0 may answer, 1 may not.

    Example: [cyan]tidegate bundle parity champion --engine openvino-int8[/]
    """
    from tidegate.engines import compare_engine

    raise typer.Exit(compare_engine(bundle, engine, table=table, seed=seed))


@bundle_app.command("export-triton")
def export_triton(
    bundle: Named,
    out: Annotated[Path, typer.Option(help="Model repository to write the towers to.")],
    kind: Annotated[
        str, typer.Option(help="Where they run: KIND_AUTO, KIND_CPU or KIND_GPU.")
    ] = "KIND_AUTO",
) -> None:
    """Write a bundle's towers as a model repository of Triton, with batching as the release contract says.

    Example: [cyan]tidegate bundle export-triton champion --out build/triton[/]
    """
    from tidegate.engines import export_towers

    export_towers(bundle, out, kind)


@gates_app.command("run")
def run_gates(
    bundle: Annotated[
        str, typer.Option(help="champion, candidate, a folder, or the start of a digest.")
    ] = "candidate",
    champion: Annotated[
        str | None,
        typer.Option(help="What to compare with; the registry's champion if absent, or none."),
    ] = None,
    table: Annotated[
        Path | None, typer.Option(help="Snapshot it was trained on; the recorded one if absent.")
    ] = None,
    profile: ReleaseProfile = "standard",
    seed: Seed = 17,
) -> None:
    """Score a bundle beside the champion and judge it: exit code 0 proposed, 1 blocked, 2 could not judge.

    Example: [cyan]tidegate gates run --bundle candidate[/]
    """
    from tidegate.gates import run_gates

    code = run_gates(bundle, champion=champion, table=table, profile=profile, seed=seed)
    raise typer.Exit(code)


@gates_app.command("list")
def list_gates() -> None:
    """Show every gate of the release contract with its limit.

    Example: [cyan]tidegate gates list[/]
    """
    from tidegate.gates import show_contract

    show_contract()


@gates_app.command("show")
def show_gates(
    bundle: Annotated[str, typer.Argument(help="champion, candidate, a folder, or a digest.")],
) -> None:
    """Show what the gates last said of a bundle.

    Example: [cyan]tidegate gates show candidate[/]
    """
    from tidegate.gates import show_verdict

    show_verdict(bundle)


@gates_app.command()
def promote(
    bundle: Annotated[
        str, typer.Argument(help="candidate, a folder, or the start of a digest.")
    ] = "candidate",
) -> None:
    """Make the candidate champion, if its attestation passes; an earlier champion comes back the same way.

    Example: [cyan]tidegate gates promote[/]
    """
    from tidegate.gates import promote

    promote(bundle)


@gates_app.command()
def doctor(
    rates: Annotated[
        int,
        typer.Option(min=0, help="Drawn worlds that the rates are taken over; 0 leaves them out."),
    ] = 12,
    seeds: Annotated[
        int, typer.Option(min=1, help="Worlds that are trained in, by the whole path.")
    ] = 1,
) -> None:
    """Show that every gate passes a known-good candidate and holds a known-bad one; exits non-zero if one does not.

    Example: [cyan]tidegate gates doctor --rates 200[/]
    """
    from tidegate.doctor.report import run

    raise typer.Exit(run(worlds=rates, seeds=seeds))


@pipelines_app.command("compile")
def compile_pipelines(
    out: Annotated[Path, typer.Option(help="Folder of the YAML files.")] = Path("build/pipelines"),
) -> None:
    """Write the pipelines' YAML.

    Example: [cyan]tidegate pipelines compile[/]
    """
    from tidegate.training import compile_all

    compile_all(out)


@pipelines_app.command("run")
def run_pipeline(
    date: Annotated[str | None, typer.Option(help="Logical date.")] = None,
    profile: Profile = "small",
    policies: Policies = None,
    release_profile: ReleaseProfile = "standard",
) -> None:
    """Run the training pipeline on this machine: the same as `tidegate train`.

    Example: [cyan]tidegate pipelines run --date 2026-11-20[/]
    """
    from pipelines.parameters import Choices
    from tidegate.training import run_and_show

    run_and_show(Choices(date, profile, release_profile=release_profile), policies=policies)


@pipelines_app.command()
def submit(
    host: Annotated[str, typer.Option(help="URL of the Kubeflow Pipelines API.")],
    date: Annotated[str | None, typer.Option(help="Logical date of a single run.")] = None,
    daily: Annotated[bool, typer.Option("--daily", help="Schedule it every day instead.")] = False,
    cron: Annotated[str, typer.Option(help="Six fields, seconds first.")] = "0 0 2 * * *",
    profile: Profile = "small",
    policies: Policies = None,
) -> None:
    """Submit the training pipeline to a cluster: once, or every day.

    Example: [cyan]tidegate pipelines submit --host http://localhost:8888 --daily[/]
    """
    from tidegate.training import submit_training

    submit_training(
        host, date=date, cron=cron if daily else None, profile=profile, policies=policies
    )
