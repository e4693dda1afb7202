"""Train the weights of a file further through its twin, so that it withstands attacks.

``settings``: what is asked for. ``weights``: what can be trained; ``roles``: what reads a tensor.
``terms``: what the loss is made of, a file each. ``augmentation``: samples made of samples.
``trainer``: the steps of an epoch. ``validation``: what a network is worth. ``course``: epochs,
checks and the best weights.
``checkpoint``: what an interrupted training goes on from. ``finetuner``: the whole, from a model
and data to the file and its ``document``.
"""
