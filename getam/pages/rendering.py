"""Renders pages from the jinja2 templates beside this module; all values are escaped."""

from __future__ import annotations

from typing import Any

import jinja2
from markupsafe import Markup

from getam.system.names import printable


def render(template: str, **values: Any) -> str:
    """Renders a template of getam/pages/templates with `values`.

    Raises:
        jinja2.UndefinedError: the template uses a value that is not given.
        ValueError: a value that the template writes as JSON holds NaN.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("getam.pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    # NaN is not JSON: the scripts of a page with one would fail, and the page stay empty.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    return environment.get_template(template).render(**values)


def _printable(value: Any) -> Any:
    """What a template writes of a value; markup, such as JSON, is left as it is."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
