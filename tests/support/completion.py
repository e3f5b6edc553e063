"""The settings of pseudo labels that tests change."""

from __future__ import annotations

from getam.settings.completion import LabelSettings
from getam.settings.config import validate_config
from getam.settings.reading import BASE_CONFIG, read_yaml
from getam.settings.section import section_of

COMPLETION = section_of(LabelSettings, validate_config(read_yaml(BASE_CONFIG)).completion)
