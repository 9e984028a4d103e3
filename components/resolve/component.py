"""Name the champion that a candidate must beat."""

from kfp import dsl

from components.base import component


@component
def resolve(release: dsl.Input[dsl.Model], home: str, tracking_url: str, version: str) -> str:
    """Return the folder of the registry's champion; empty for a first release."""
    from components.resolve import step

    return step.run(release.path, home, tracking_url)
