"""Pages from the templates beside this module: everything that a page is given reaches it as text."""

from __future__ import annotations

from typing import Any

import jinja2


def render(template: str, **values: Any) -> str:
    """The page that a template of getam/pages/templates makes of `values`; a value that it misses is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("getam.pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # NaN is not JSON: a page that holds one would stay empty without saying why.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    return environment.get_template(template).render(**values)
