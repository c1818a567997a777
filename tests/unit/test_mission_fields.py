"""The tables of fields are the models', and the pages have them."""

from pathlib import Path

import pytest

from schemas.missions import Mission
from schemas.robot_file import RobotFile
from streams.missions.fields import PAGES, fields_table, with_table

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", PAGES)
def test_the_page_has_the_table_of_the_model(name: str) -> None:
    page = (DOCS / name).read_text()
    what = f"run: python -m streams.missions.fields docs/{name}"
    assert page == with_table(page, PAGES[name]), what


def test_every_field_has_a_row_with_its_default():
    rows = fields_table(Mission).splitlines()
    for line in (
        "| `rollout.max_tokens` | `16` | a whole number, at least 1 |",
        "| `training.betas` | `[0.9, 0.99]` | 2 numbers |",
        "| `target.heldout` | none | a number, above 0, at most 1, accuracy |",
        "| `max_in_flight` | none | a whole number, at least 1, problems on their way at most |",
    ):
        assert line in rows
    names = {row.split("`")[1] for row in rows[2:]}
    assert set(Mission.model_fields) - {"type", "schema_version"} <= names


def test_a_page_without_a_place_is_refused():
    with pytest.raises(ValueError, match="needs"):
        with_table("# Missions", Mission)


def test_an_entry_of_a_mapping_has_rows_of_its_own():
    rows = fields_table(RobotFile).splitlines()
    assert any(row.startswith("| `fusion.channels.<name>.kind` | required |") for row in rows)
