"""Reconstruction losses (App. B): pixels of hidden patches, counts of genes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import huber_loss, logsigmoid, softplus

from spatia.model.genes import CountModel


def pixel_loss(found: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return the mean squared error over pixels with weight 1, all (h, c, p, p)."""
    return ((found - target).square() * weight).sum() / weight.sum().clamp(min=1)


def profile_loss(found: Tensor, target: Tensor) -> Tensor:
    """Return the mean Huber loss of standardised morphology profiles (b, p); NaN targets do not count."""
    is_known = target.isfinite()
    error = huber_loss(found.float(), torch.where(is_known, target, found.detach().float()), reduction="none")
    return error.sum() / is_known.sum().clamp(min=1)


def zinb_loss(model: CountModel, counts: Tensor, is_measured: Tensor) -> Tensor:
    """Return the mean negative log likelihood of counts under a zero-inflated negative binomial (A20).

    Parameters
    ----------
    model
        Its parts (b, g).
    counts, is_measured
        (b, g); genes off the slide's panel do not count.
    """
    log_mean, zero = model.log_mean.float().clamp(-12, 12), model.zero_logit.float()
    log_theta = model.log_dispersion.float().clamp(-6, 8)
    theta = log_theta.exp()
    log_sum = torch.logaddexp(log_theta, log_mean)
    log_nb_zero = theta * (log_theta - log_sum)
    log_nb = (
        torch.lgamma(counts + theta) - torch.lgamma(theta) - torch.lgamma(counts + 1)
        + log_nb_zero + counts * (log_mean - log_sum)
    )  # fmt: skip
    # log(pi + (1 - pi) NB(0)) and log((1 - pi) NB(k))
    at_zero = softplus(log_nb_zero - zero) - softplus(-zero)
    above = logsigmoid(-zero) + log_nb
    likelihood = torch.where(counts > 0, above, at_zero)
    return -(likelihood * is_measured).sum() / is_measured.sum().clamp(min=1)
