"""What lies beside a model's weights and goes along with them, settings and tokenizer, from a stranger's folder."""

import json
import os
import re
from contextlib import closing
from pathlib import Path
from typing import Any

from ...errors import CheckpointError, ExportError
from ...wording import size_text
from ..checkpoint import Checkpoint
from .folder import member

MAX_COMPANION = 64 << 20
# What a model's folder needs besides its weights, and nothing else of what may lie there.
COMPANIONS = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|chat_template|"
    r"preprocessor_config|processor_config)\.json|merges\.txt|vocab\.txt|tokenizer\.model|chat_template\.jinja"
)

CONFIG = re.compile(r"config\.json")


def companions(source: Checkpoint | None, names: re.Pattern[str] = COMPANIONS) -> dict[str, bytes]:
    """What lies beside the weights of a model and belongs to it, by name.

    The folder may be a stranger's: ExportError for what is a link out of it, or no regular file.
    """
    home, found = model_folder(source), {}
    if home is None:
        return {}
    for name in filter(names.fullmatch, sorted(os.listdir(home))):
        try:
            with closing(member(home.resolve(), name)) as file:
                if file.size > MAX_COMPANION:
                    raise CheckpointError(f"{file} has more than {size_text(MAX_COMPANION)}")
                found[name] = bytes(file.read(0, file.size))
        except CheckpointError as error:
            raise ExportError(f"{error}: copy the file itself there, or take it away") from error
    return found


def model_folder(source: Checkpoint | None) -> Path | None:
    """The folder of a whole model, which holds its config.json too; None for a file of tensors by itself."""
    if source is None or source.path.is_dir():
        return source.path if source else None
    folder = source.path.parent
    return folder if source.path.name == "model.safetensors" and folder.is_dir() else None  # behind a URL is no folder


def own_config(source: Checkpoint | None) -> dict[str, Any]:
    """The config.json of a source that is a whole model; empty if it has none. Raises as `read_config` does."""
    return read_config(companions(source, CONFIG).get("config.json"))


def read_config(content: bytes | None) -> dict[str, Any]:
    """A model's own config.json; empty if it has none. ExportError if it is not an object."""
    if content is None:
        return {}
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ExportError(
            f"the model's config.json is not JSON, so the quantization cannot be added: {error}"
        ) from error
    if not isinstance(config, dict):
        raise ExportError("the model's config.json is not a JSON object, so the quantization cannot be added")
    return config
