"""What matters in an image for a classifier's answer: maps, pictures of them, and measures.

Two maps of a sample are compared. Both are of the margin, the label's logit less the largest other
one, which decides the class: the size of its gradient, and by how much it drops when a patch of the
image is replaced (Zeiler and Fergus 2014). The second needs no gradients, so that it is measured on
the deployed file.

``gradient``, ``occlusion``: a map each. ``maps``: both of some samples. ``removal``: what becomes
of the label's probability when pixels are removed in the order of a map (Petsiuk et al. 2018).
``similarity``: how alike two maps are. ``shading``: the grey of a map. ``folder``: the pictures of
``onnxfit gradients --saliency``.
"""
