"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    Path | None,
    typer.Option(help="Your own listings: a Parquet file, or a folder with CSV and images."),
]
Mapping = Annotated[
    Path | None, typer.Option(help="YAML that says which column is what; guessed if absent.")
]
Policies = Annotated[Path | None, typer.Option(help="Policy file; the setting's if absent.")]
Profile = Annotated[str, typer.Option(help="Towers and sizes: small, tiny or clip.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same result.")]
ReleaseProfile = Annotated[
    str, typer.Option(help="Profile of the release contract: standard, or demo for small data.")
]
Named = Annotated[
    str, typer.Argument(help="champion, candidate, a folder, or the start of a digest.")
]
Engine = Annotated[str, typer.Option(help="What runs the towers, such as openvino-int8.")]
