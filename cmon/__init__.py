"""Say which concept each neuron of a vision network detects, at every checkpoint of its training."""

__version__ = "0.1.0"
