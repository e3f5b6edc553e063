"""Renders pages from the jinja2 templates beside this module; all values are escaped."""

from __future__ import annotations

from typing import Any

import jinja2


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
    )
    # NaN is not JSON: the scripts of a page with one would fail, and the page stay empty.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    return environment.get_template(template).render(**values)
