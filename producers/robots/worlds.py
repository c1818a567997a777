"""Worlds as they lie in files."""

from pathlib import Path

import yaml
from pydantic import ValidationError

from schemas.worlds import World


class WorldError(Exception):
    """A world's file cannot be used; says where and why."""


def read_world(path: Path) -> World:
    """The world in a YAML file; raises `WorldError` naming the field to mend."""
    try:
        return World.model_validate(yaml.safe_load(path.read_text()))
    except OSError as error:
        raise WorldError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise WorldError(f"{path} is no YAML: {error}") from error
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()
        )
        raise WorldError(f"{path}: {wrong}") from None
