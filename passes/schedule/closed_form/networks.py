"""The networks of the published tables: convolutions and max pools at 224 x 224, one linear list each."""

from __future__ import annotations

from cimc.passes.schedule.closed_form.operators import Operator

_VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_BASIC = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
_BOTTLENECK = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def vgg16() -> tuple[Operator, ...]:
    """13 convolutions 3x3 and 5 pools 2x2."""
    ops: list[Operator] = []
    channels, height = 3, 224
    for group, widths in enumerate(_VGG16, 1):
        for index, width in enumerate(widths, 1):
            ops.append(Operator(f"conv{group}_{index}", "convolution", 3, 1, channels, width, height))
            channels = width
        ops.append(Operator(f"pool{group}", "pool", 2, 2, channels, channels, height))
        height //= 2
    return tuple(ops)


def resnet(layers: int) -> tuple[Operator, ...]:
    """ResNet of 18, 34 (basic blocks), 50 or 101 (bottlenecks) layers.

    The projection of a block follows the block's last convolution; additions are not in the list.
    Raises ``ValueError`` for other depths.
    """
    if layers not in _BASIC and layers not in _BOTTLENECK:
        raise ValueError(f"there are ResNets of 18, 34, 50 and 101 layers, given {layers}")
    bottleneck = layers in _BOTTLENECK
    ops = [
        Operator("conv1", "convolution", 7, 2, 3, 64, 224),
        Operator("maxpool", "pool", 3, 2, 64, 64, 112),
    ]
    channels, height = 64, 56
    for stage, blocks in enumerate((_BOTTLENECK if bottleneck else _BASIC)[layers], 1):
        width = 32 << stage
        for block in range(blocks):
            stride = 2 if stage > 1 and block == 0 else 1
            name, out = f"layer{stage}.{block}", 4 * width if bottleneck else width
            ops += _block(name, channels, width, stride, height, bottleneck=bottleneck)
            if block == 0 and (bottleneck or stage > 1):
                ops.append(Operator(f"{name}.projection", "convolution", 1, stride, channels, out, height))
            channels, height = out, height // stride
    return tuple(ops)


def _block(
    name: str, channels: int, width: int, stride: int, height: int, *, bottleneck: bool
) -> list[Operator]:
    shapes = (
        [(1, 1, channels, width), (3, stride, width, width), (1, 1, width, 4 * width)]
        if bottleneck
        else [(3, stride, channels, width), (3, 1, width, width)]
    )
    ops: list[Operator] = []
    for index, (kernel, step, given, made) in enumerate(shapes, 1):
        ops.append(Operator(f"{name}.conv{index}", "convolution", kernel, step, given, made, height))
        height //= step
    return ops


NETWORKS: dict[str, tuple[Operator, ...]] = {
    "VGG16": vgg16(),
    "ResNet18": resnet(18),
    "ResNet34": resnet(34),
    "ResNet50": resnet(50),
    "ResNet101": resnet(101),
}
"""The five networks of the tables, by name."""
