"""Stand-in for the two functions of CogVideo's script that are used."""

from typing import Any


def get_unique_embedder_keys_from_conditioner(conditioner: Any) -> list[str]:
    return ["txt"]


def get_batch(keys: list[str], values: dict[str, str], repeats: list[int]) -> Any:
    return {"txt": [values["prompt"]]}, {"txt": [values["negative_prompt"]]}
