"""The command line: what there is to call, and nothing heavy until it is called."""

from pathlib import Path
from typing import Annotated

import typer

from tidegate.options import Data, Mapping, Policies, Profile, Seed

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
pipelines_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(simulate_app, name="simulate")
app.add_typer(bundle_app, name="bundle", help="Look at a trained bundle.")
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
def train(
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
) -> None:
    """Run the daily training pipeline on this machine.

    Example: [cyan]tidegate train --date 2026-11-20[/]
    """
    from pipelines.parameters import Choices
    from tidegate.training import run_and_show

    run_and_show(
        Choices(date, profile, seed, trials, min_positives=min_positives), policies=policies
    )


@app.command()
def evaluate(
    bundle: Annotated[
        Path | None, typer.Option(help="Folder of a bundle; the champion if absent.")
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
) -> None:
    """Serve a bundle: predictor and gateway as processes on the loopback, until Ctrl-C.

    Example: [cyan]tidegate serve[/], then [cyan]tidegate decide --title "water gun"[/]
    """
    from tidegate.serving import serve

    serve(bundle=bundle, policies=policies)


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
) -> None:
    """Run the training pipeline on this machine: the same as `tidegate train`.

    Example: [cyan]tidegate pipelines run --date 2026-11-20[/]
    """
    from pipelines.parameters import Choices
    from tidegate.training import run_and_show

    run_and_show(Choices(date, profile), policies=policies)


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
