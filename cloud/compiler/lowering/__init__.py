"""ATen operators -> operations of the intermediate representation: one table, no torch.

The front end turns every node of the exported graph into an :class:`AtenCall` of plain Python values, so that
the table can be read, and tested, without torch. A lowering is a function ``(AtenCall, Builder) -> Value``
(or a tuple of values for an operator with several results, or None for one that computes nothing); a name
that is not in the table, or a form of it that no operation covers, raises :class:`UnsupportedOperator`.
"""

from collections.abc import Mapping

from cloud.compiler.errors import UnsupportedOperator
from cloud.compiler.lowering import contract, image, movement, pointwise, pool, recurrent, reduce, training
from cloud.compiler.lowering.call import AtenCall, Builder, Lowered, Lowering

__all__ = ["LOWERINGS", "AtenCall", "Builder", "Lowered", "Lowering", "UnsupportedOperator", "lower"]

_FAMILIES = (pointwise, contract, reduce, image, pool, movement, recurrent, training)
LOWERINGS: Mapping[str, Lowering] = {
    name: lowering for family in _FAMILIES for name, lowering in family.LOWERINGS.items()
}
ADVICE: Mapping[str, str] = {
    "bernoulli": "inference has no randomness: remove it, or call model.eval()",
    "rand": "pass random numbers as an input",
    "randn": "pass random numbers as an input",
    "rand_like": "pass random numbers as an input",
    "randn_like": "pass random numbers as an input",
    "nonzero": "its result's shape depends on the numbers; use a mask and torch.where",
    "masked_select": "its result's shape depends on the numbers; use a mask and torch.where",
    "unique": "its result's shape depends on the numbers",
    "item": "the program may not depend on an array's numbers; use torch.where",
    "_local_scalar_dense": "the program may not depend on an array's numbers; use torch.where",
    "sort": "sort on the application's side, or use argmax, amax and amin",
    "topk": "take the top entries on the application's side, or use argmax, amax and amin",
    "fft_fft": "multiply by the matrix of the transform instead",
    "fft_rfft": "multiply by the matrix of the transform instead",
}


def lower(call: AtenCall, build: Builder) -> Lowered:
    """The values that this call computes. Raises :class:`UnsupportedOperator`."""
    # A trace follows arrays, so the result of an in-place operator is what its array is from then on.
    lowering = LOWERINGS.get(call.base_name) or LOWERINGS.get(call.base_name.removesuffix("_"))
    if lowering is None or not call.operator.startswith("aten."):
        raise call.refuse(
            ADVICE.get(call.base_name, f"build it from operators that the compiler covers: {_covered()}")
        )
    try:
        return lowering(call, build)
    except (ValueError, IndexError, TypeError, KeyError) as error:
        raise call.refuse(f"this form of it is not covered ({error})") from error


def _covered() -> str:
    return ", ".join(sorted(name for name in LOWERINGS if not name.startswith("_")))
