"""Elementwise ATen operators, by kind."""

from collections.abc import Mapping

from cloud.compiler.lowering import activations, angles, arithmetic, constants, division, logic
from cloud.compiler.lowering.call import Lowering

LOWERINGS: Mapping[str, Lowering] = {
    **arithmetic.LOWERINGS,
    **angles.LOWERINGS,
    **division.LOWERINGS,
    **activations.LOWERINGS,
    **logic.LOWERINGS,
    **constants.LOWERINGS,
}
