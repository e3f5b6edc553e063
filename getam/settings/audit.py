"""Settings of the audit page."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from getam.settings.section import Section


class AuditSettings(Section):
    """audit: the page that shows every stage's result beside the image."""

    images: Annotated[int, Field(ge=0)] = Field(
        description="most images of each split on the page, evenly spaced over the sorted ids; 0: all"
    )
