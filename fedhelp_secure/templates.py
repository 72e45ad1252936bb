"""HTML pages from the packages' own Jinja templates: everything escaped, nothing undefined."""

from __future__ import annotations

from importlib.resources import files

import jinja2


def template(package: str, name: str, *, trim: bool = False) -> jinja2.Template:
    """The template ``name`` in ``package``; with ``trim`` its block tags leave no blank lines."""
    environment = jinja2.Environment(
        loader=jinja2.BaseLoader(),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=trim,
        lstrip_blocks=trim,
    )
    return environment.from_string(files(package).joinpath(name).read_text("utf-8"))
