"""What a NumPyro program's mutable sites hold."""

from collections.abc import Mapping
from typing import Any

from numpyro.primitives import Messenger

from ranef.lazy import ArrayLike


class MutableRecorder(Messenger):
    """Records what mutable sites hold before the program updates them."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, dict[str, ArrayLike]] = {}

    def postprocess_message(self, msg: Mapping[str, Any]) -> None:
        if msg["type"] == "mutable":
            self.values[msg["name"]] = dict(msg["value"])
