"""ATen operators -> operations of the intermediate representation: one table, no torch.

The front end turns every node of the exported graph into an :class:`AtenCall` of plain Python values, so that
the table can be read, and tested, without torch. A lowering is a function ``(AtenCall, Builder) -> Value``
(or a tuple of values for an operator with several results, or None for one that computes nothing); a name
that is not in the table, or a form of it that no operation covers, raises :class:`UnsupportedOperator`.
"""

from collections.abc import Mapping
from difflib import get_close_matches

from cloud.compiler.errors import UnsupportedOperator
from cloud.compiler.lowering import (
    contract,
    image,
    movement,
    order,
    pointwise,
    pool,
    recurrent,
    reduce,
    training,
)
from cloud.compiler.lowering.call import AtenCall, Builder, Lowered, Lowering

__all__ = [
    "LOWERINGS",
    "SHAPE_ADVICE",
    "AtenCall",
    "Builder",
    "Lowered",
    "Lowering",
    "UnsupportedOperator",
    "advice_against",
    "is_known",
    "lower",
]

_FAMILIES = (pointwise, contract, reduce, order, image, pool, movement, recurrent, training)
LOWERINGS: Mapping[str, Lowering] = {
    name: lowering for family in _FAMILIES for name, lowering in family.LOWERINGS.items()
}
SHAPE_ADVICE = "its result's shape depends on the numbers; use a mask and torch.where"
_BRANCH = "the program may not depend on an array's numbers; use torch.where"
_RANDOM = "pass random numbers as an input"
_COMPLEX = "complex numbers are not covered; multiply by the matrices of the transform's cosines and sines"
_SOLVER = "matrices are not factorised on a device; pass the result as a parameter or an input"
# What torch could take apart, but not into something that has a lowering.
ADVICE: Mapping[str, str] = {
    "bernoulli": "inference has no randomness: remove it, or call model.eval()",
    "rand": _RANDOM,
    "randn": _RANDOM,
    "rand_like": _RANDOM,
    "randn_like": _RANDOM,
    "normal": _RANDOM,
    "multinomial": _RANDOM,
    "nonzero": SHAPE_ADVICE,
    "masked_select": SHAPE_ADVICE,
    "unique": SHAPE_ADVICE,
    "_unique2": SHAPE_ADVICE,
    "unique_dim": SHAPE_ADVICE,
    "unique_consecutive": SHAPE_ADVICE,
    "item": _BRANCH,
    "_local_scalar_dense": _BRANCH,
    "fft_fft": _COMPLEX,
    "fft_ifft": _COMPLEX,
    "fft_rfft": _COMPLEX,
    "fft_irfft": _COMPLEX,
    "fft_fft2": _COMPLEX,
    "fft_rfft2": _COMPLEX,
    "fft_irfft2": _COMPLEX,
    "_fft_r2c": _COMPLEX,
    "_fft_c2r": _COMPLEX,
    "_fft_c2c": _COMPLEX,
    "stft": _COMPLEX,
    "istft": _COMPLEX,
    "linalg_inv": _SOLVER,
    "linalg_solve": _SOLVER,
    "linalg_svd": _SOLVER,
    "linalg_eigh": _SOLVER,
    "linalg_qr": _SOLVER,
    "linalg_cholesky": _SOLVER,
    "linalg_det": _SOLVER,
    "det": _SOLVER,
    "inverse": _SOLVER,
    "_upsample_bicubic2d_aa": "interpolate without antialias",
    "_upsample_bilinear2d_aa": "interpolate without antialias",
    "max_pool3d_with_indices": "positions in a volume are not covered; pool without return_indices",
    "conv_transpose3d": "enlarge with interpolate and convolve with conv3d: its transpose is not covered",
    "mode": "count with one_hot and sum, and take the argmax",
    "bincount": "count with one_hot and sum",
    "histc": "count with comparisons and sum",
}
SIMILAR_MAX, CLOSE = 6, 0.7


def lower(call: AtenCall, build: Builder) -> Lowered:
    """The values that this call computes. Raises :class:`UnsupportedOperator`."""
    lowering = _lowering(call.base_name)
    if lowering is None or not call.operator.startswith("aten."):
        raise call.refuse(advice_against(call.operator) or _similar(call.base_name))
    try:
        return lowering(call, build)
    except (ValueError, IndexError, TypeError, KeyError) as error:
        raise call.refuse(f"this form of it is not covered ({error})") from error


def is_known(operator: str) -> bool:
    """Whether ``aten.name.overload`` has a lowering, or advice what to use instead."""
    return bool(advice_against(operator)) or _lowering(_base_name(operator)) is not None


def advice_against(operator: str) -> str | None:
    """What to use instead of ``aten.name.overload``, if it is one that can't be covered."""
    return ADVICE.get(_base_name(operator))


def _base_name(operator: str) -> str:
    return operator.removeprefix("aten.").split(".")[0]


def _lowering(name: str) -> Lowering | None:
    # A trace follows arrays, so the result of an in-place operator is what its array is from then on.
    return LOWERINGS.get(name) or LOWERINGS.get(name.removesuffix("_"))


def _similar(name: str) -> str:
    """Advice for an operator that nobody has thought of."""
    covered = [one for one in LOWERINGS if not one.startswith("_")]
    parts = [part for part in name.split("_") if len(part) > 2]
    near = get_close_matches(name, covered, SIMILAR_MAX, CLOSE)
    near += [one for one in covered if one not in near and any(part in one.split("_") for part in parts)]
    similar = f"covered are {', '.join(near[:SIMILAR_MAX])} and others" if near else "many others are covered"
    return f"write it with operators that the compiler covers ({similar}; docs/compiler.md has the list)"
