"""What a NumPyro program's mutable sites hold."""

from typing import Any

from numpyro.primitives import Messenger


class MutableRecorder(Messenger):
    """Records what mutable sites hold before the program updates them."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, Any] = {}

    def postprocess_message(self, msg: Any) -> None:
        if msg["type"] == "mutable":
            self.values[msg["name"]] = dict(msg["value"])
