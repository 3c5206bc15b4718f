"""The operations of the intermediate representation, by family, each with its numpy meaning.

An operation is a frozen dataclass: its attributes, its result's shape and dtype, its meaning. A family has a
file of this name in three more places: :mod:`cloud.compiler.lowering` (ATen operators -> operations),
:mod:`cloud.compiler.kernels` (operation -> WebAssembly), and the tests, which compare all three with torch.

    pointwise    one expression at every position, with broadcasting
    contract     matrix products
    reduce       sums, extremes, softmax, normalisation: along axes
    order        sorting
    image        convolution: windows over NHWC arrays
    pool         pooling and interpolation
    movement     the same numbers in another order or place
    recurrent    loops over time steps
    gradient     what only backward passes need
"""
