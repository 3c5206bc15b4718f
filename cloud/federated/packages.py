"""What learning needs of a package: parameters that a job starts from, a place for those it ends with.

The training package (``train_step``, ``evaluate``) and the package that serves are compiled apart; what joins
them are the names and shapes of their parameters.
"""

from typing import Protocol

import msgspec

from shared.abi import read_abi
from shared.errors import ShoalError
from shared.package import Package, pack, unpack
from shared.parameters import decode_parameters, encode_parameters
from shared.vectors import PARAMETERS_MAX, Layout, Vector


class Packages(Protocol):
    """The cloud's artifacts, as the coordinator uses them. Both methods block."""

    def read(self, digest: str) -> bytes:
        """A package. Raises ``OSError`` where there is none."""
        ...

    def offer(self, package: bytes) -> str:
        """Take a package into the catalog; gives its digest."""
        ...


class NotUsable(ShoalError):
    """A package does not do what the job wants it for. The message says why."""


def start_of(packages: Packages, digest: str) -> tuple[Layout, Vector]:
    """The layout and the parameters [n_params] of a training package. Raises :class:`NotUsable`."""
    package = _read(packages, digest, "training package")
    abis = [read_abi(module) for module in package.modules.values()]
    if any(abi is None or not (abi.function("train_step") and abi.function("evaluate")) for abi in abis):
        raise NotUsable("the training package lacks train_step or evaluate: make it with compile_training")
    tensors = decode_parameters(package.parameters)
    layout = Layout.of(tensors)
    if not 0 < layout.n_params <= PARAMETERS_MAX:
        raise NotUsable(f"the training package has {layout.n_params} parameters")
    return layout, layout.flatten(tensors)


def check_serving(packages: Packages, digest: str, layout: Layout) -> None:
    """Whether the learned parameters can be put into this package. Raises :class:`NotUsable`."""
    package = _read(packages, digest, "package that serves")
    shapes = dict(zip(layout.names, layout.shapes, strict=True))
    for name, tensor in decode_parameters(package.parameters).items():
        if shapes.get(name) != tensor.shape:
            has = f"of shape {shapes[name]}" if name in shapes else "not learned"
            raise NotUsable(f"parameter {name!r} {tensor.shape} of the package that serves is {has}")


def with_parameters(
    packages: Packages, digest: str, name: str, description: str, layout: Layout, x: Vector
) -> bytes:
    """The package that serves with the parameters ``x`` [n_params] in place of its own."""
    package = _read(packages, digest, "package that serves")
    learned = layout.unflatten(x)
    own = decode_parameters(package.parameters)
    info = msgspec.structs.replace(package.info, name=name or package.info.name, description=description)
    parameters = encode_parameters({one: learned[one] for one in own})
    return pack(msgspec.structs.replace(package, info=info, parameters=parameters))


def _read(packages: Packages, digest: str, what: str) -> Package:
    try:
        return unpack(packages.read(digest))
    except OSError:
        raise NotUsable(f"the {what} {digest[:12]} is not in the catalog: upload it first") from None
