"""Networks for small images, in torchvision's layer names."""

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, resnet18


def small_resnet(num_classes: int = 10, width: int = 16) -> nn.Module:
    """Build a ResNet of four blocks for images of about 32 pixels: layer1 has `width` channels, layer4 8 * width."""
    return SmallResNet(num_classes, width)


def resnet18_cifar(num_classes: int = 10) -> nn.Module:
    """Build torchvision's ResNet-18 with a stem for images of about 32 pixels: 3x3, stride 1, no pooling."""
    model = resnet18(num_classes=num_classes)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model


class SmallResNet(nn.Module):
    """A 3x3 stem, four layers of one block each, of which the last three halve the resolution, and a linear head."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _layer(width, width, 1)
        self.layer2 = _layer(width, 2 * width, 2)
        self.layer3 = _layer(2 * width, 4 * width, 2)
        self.layer4 = _layer(4 * width, 8 * width, 2)
        self.fc = nn.Linear(8 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return (n, num_classes) scores of images (n, 3, h, w)."""
        maps = self.bn1(self.conv1(images)).relu()
        maps = self.layer4(self.layer3(self.layer2(self.layer1(maps))))
        return self.fc(maps.mean((2, 3)))


def _layer(width_in: int, width_out: int, stride: int) -> nn.Module:
    shortcut = None
    if stride != 1 or width_in != width_out:
        convolution = nn.Conv2d(width_in, width_out, 1, stride, bias=False)
        shortcut = nn.Sequential(convolution, nn.BatchNorm2d(width_out))
    return nn.Sequential(BasicBlock(width_in, width_out, stride, shortcut))
