"""``fedhelp privacy``: for a hospital's privacy officer."""

from __future__ import annotations

import typer

app = typer.Typer(no_args_is_help=True, help="Plan a privacy budget, and see what is spent.")


@app.callback()
def privacy() -> None:
    """Plan a privacy budget, and see what is spent; nothing leaves the hospital."""
