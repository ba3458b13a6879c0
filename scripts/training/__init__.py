"""What the training scripts share: data in, checkpoints out, and a training that goes on where it was killed.

Every random number is a function of the seed, the epoch and the purpose alone (`randomness`), so that an epoch is
the same whether the process that runs it began there or at epoch 0.
"""
