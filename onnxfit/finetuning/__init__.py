"""Train the weights of a file further through its twin, so that it withstands attacks.

``settings``: what is asked for. ``terms``: what the loss is made of, a file each. ``augmentation``:
samples made of samples. ``trainer``: the epochs. ``validation``: what a model is worth.
``checkpoint``: what an interrupted training goes on from. ``finetuner``: the verb, from a model and
data to the file and its record.
"""
