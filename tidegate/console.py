"""What a person sees: one console for answers, one for errors, and the progress of a pipeline."""

from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from pipelines.steps import STEP_NAMES, StepEvent

console: Final = Console()
errors: Final = Console(stderr=True)

# Shares of a step's work at which a log without a terminal gets a line.
_QUARTERS: Final = 4


def say(text: str, *, style: str | None = None, markup: bool = True) -> None:
    """Print one line as it is: a pipe or a narrow terminal must not break paths and commands."""
    console.print(text, style=style, markup=markup, highlight=False, soft_wrap=True)


def show_error(message: str, *, is_temporary: bool = False) -> None:
    """Print one error and whether trying again helps."""
    errors.print(f"[bold red]error[/]: {escape(message)}", soft_wrap=True)
    if is_temporary:
        errors.print("This may pass: try again in a moment.")


def seconds(value: float) -> str:
    """Return a duration for people.

    >>> seconds(0.42), seconds(75)
    ('0.4 s', '1 min 15 s')
    """
    if value < 60:  # seconds of a minute
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s"


class PipelineProgress:
    """Shows one line per finished step and a moving one for the step that runs."""

    def __init__(self) -> None:
        self._status: Status | None = None
        self._quarter = 0

    def __call__(self, event: StepEvent) -> None:
        """Show what happened."""
        place = f"{STEP_NAMES.index(event.step) + 1:>2}/{len(STEP_NAMES)}"
        name = f"{event.step:<10}"
        if event.what == "started":
            self._quarter = 0
            self._move(f"{place} {event.step} ...")
            if not console.is_terminal:
                say(f"  {place} {name} started")
        elif event.what == "progress":
            self._show_share(event, place)
        else:
            self.close()
            say(f"  {place} {name} {_outcome(event)}")

    def close(self) -> None:
        """Stop the moving line."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _show_share(self, event: StepEvent, place: str) -> None:
        text = f"{place} {event.step} ... {event.done:,} of {event.total:,} {event.note}"
        self._move(text)
        quarter = event.done * _QUARTERS // max(event.total, 1)
        if quarter > self._quarter and not console.is_terminal:
            self._quarter = quarter
            say(f"     {event.step}: {event.done:,} of {event.total:,} {event.note}")

    def _move(self, text: str) -> None:
        if not console.is_terminal:
            return
        if self._status is None:
            self._status = console.status(text)
            self._status.start()
        self._status.update(text)


def _outcome(event: StepEvent) -> str:
    if event.what == "cached":
        return "[cyan]unchanged, taken from the last run[/]"
    if event.what == "failed":
        return f"[red]failed[/] after {seconds(event.seconds)}"
    return f"[green]done[/] in {seconds(event.seconds)}"
