"""Classes of Keras for annotations.

Keras is imported only when a formula has a network, so at run time these names stand for any
object.
"""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from keras import KerasTensor, Layer, Model, Variable

    class Dense(Protocol):
        """A dense layer, as far as it is used here.

        Attributes:
            kernel: its weights, (inputs, units).
            bias: its biases, (units,).
            use_bias: whether it has biases.
            input: the symbolic tensor that enters it.
        """

        kernel: Variable
        bias: Variable
        use_bias: bool
        input: KerasTensor
else:
    Dense = KerasTensor = Layer = Model = object

__all__ = ["Dense", "KerasTensor", "Layer", "Model"]
