"""The table of a mission's fields is the model's, and the page has it."""

from pathlib import Path

import pytest

from schemas.missions import Mission
from streams.missions.fields import fields_table, with_table

PAGE = Path(__file__).parents[2] / "docs" / "missions.md"


def test_the_page_has_the_table_of_the_model():
    page = PAGE.read_text()
    assert page == with_table(page), "run: python -m streams.missions.fields docs/missions.md"


def test_every_field_has_a_row_with_its_default():
    rows = fields_table().splitlines()
    for line in (
        "| `rollout.max_tokens` | `16` | a whole number, at least 1 |",
        "| `training.betas` | `[0.9, 0.99]` | 2 numbers |",
        "| `target.heldout` | required | a number, above 0, at most 1 |",
        "| `max_in_flight` | none | a whole number, at least 1, problems on their way at most |",
    ):
        assert line in rows
    names = {row.split("`")[1] for row in rows[2:]}
    assert set(Mission.model_fields) - {"type", "schema_version"} <= names


def test_a_page_without_a_place_is_refused():
    with pytest.raises(ValueError, match="needs"):
        with_table("# Missions")
