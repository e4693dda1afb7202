"""How large the Jacobians of a classifier are, and how much those of its samples have in common.

A perturbation is universal where one δ moves many samples at once. To first order it moves the
logits f by ``Σᵢ‖f(xᵢ + δ) − f(xᵢ)‖² ≈ ‖J̄δ‖² ≤ ‖δ‖²·σ_max(J̄)² ≤ ‖δ‖²·Σᵢ‖Jᵢ‖²_F``, where Jᵢ is the
C×D Jacobian of the logits of sample i, and J̄ are all of them stacked, NC×D. This and the measures
of pairs are those of Co, Rego and Lupu, "Jacobian regularization for mitigating universal
adversarial perturbations" (2021, arXiv 2104.10459).

``products``: Jacobians of a batch, and products with them. ``stacked``: σ_max(J̄). ``pairs``: what
two samples have in common, and whether one perturbation fools both. ``measure``: the whole, from a
model and data to the figures and their ``document``. ``universal``: what SGD-UAP reaches beside the
bound.

Memory is needed for the Jacobians of a batch, which is made smaller where they or their Gram
matrices would be too large, down to one sample or one pair; and for the samples of the pairs. A
Gram matrix is C×C or D×D, 2C×2C or D×D of a pair, whichever is smaller, so that it has no more
numbers than the Jacobian. ``J̄`` is never made. Jacobians are in units of logits / the data's
bounds.
"""
