"""Kernels of :mod:`cloud.compiler.ops.image`."""

from collections.abc import Callable, Mapping

from cloud.compiler.ir import Node
from cloud.compiler.kernels.conv_depthwise import depthwise_kernel
from cloud.compiler.kernels.conv_direct import conv_kernel
from cloud.compiler.kernels.pad_image import pad_kernel
from cloud.compiler.kernels.winograd import winograd_kernel
from cloud.compiler.ops.image import Conv, Depthwise, PadImage
from cloud.compiler.ops.winograd import WinogradConv
from cloud.compiler.wat import Kernel

EMITTERS: Mapping[type, Callable[[Node], Kernel | None]] = {
    Conv: conv_kernel,
    Depthwise: depthwise_kernel,
    PadImage: pad_kernel,
    WinogradConv: winograd_kernel,
}
