"""What the compiler refuses, with the words a model's author needs to mend it.

    ShoalError
    └── CompileError             this model can't become a module; the message says why
        └── UnsupportedOperator  it uses an operator that has no lowering

Nothing is ever computed approximately in silence: what is not covered raises.
"""

from shared.errors import ShoalError


class CompileError(ShoalError):
    """The model can't be compiled as it is."""


class UnsupportedOperator(CompileError):
    """An operator, or one form of it, has no lowering.

    ``operator``: its ATen name. ``source``: the line of the model that calls it. ``advice``: what to use
    instead.
    """

    def __init__(self, operator: str, source: str, advice: str) -> None:
        super().__init__(f"{operator} is not supported; {advice}\n  at {source}")
        self.operator, self.source, self.advice = operator, source, advice
