"""The demo's network: a plain CNN whose four layers have names to hook."""

from torch import Tensor, nn


class Classifier(nn.Module):
    """Four convolutional layers, mean pooling and a linear classifier.

    Input (n, 3, 64, 64) in [0, 1]; outputs of `layer1` to `layer4`: (n, 16, 32, 32), (n, 32, 16, 16),
    (n, 64, 8, 8), (n, 64, 8, 8); of the whole (n, classes) logits.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layer1 = _layer(3, 16, stride=2, pool=False)
        self.layer2 = _layer(16, 32, pool=True)
        self.layer3 = _layer(32, 64, pool=True)
        self.layer4 = _layer(64, 64, pool=False)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute logits."""
        features = self.layer4(self.layer3(self.layer2(self.layer1(pixels))))
        return self.fc(self.pool(features).flatten(1))


def _layer(inputs: int, outputs: int, pool: bool, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    steps: list[nn.Module] = [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*steps, *([nn.MaxPool2d(2)] if pool else []))


def build(classes: int = 10) -> nn.Module:
    """Build the network with random weights."""
    return Classifier(classes)
