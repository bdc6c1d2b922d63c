"""PatchGAN: a critic that judges every patch of a pair of images by itself; what is made of its verdict lives in tasks/adversarial.py."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from hepdist.errors import RecipeError
from hepdist.models.layers import CONV, channels_last, normalisation
from hepdist.models.specs import AdversarySpec

SMALLEST_SIDE = 4
"""Pixels below which a side is no longer halved: the two last layers take one pixel each."""


class PatchGAN(nn.Module):
    """condition float[b, C, *spatial], candidate float[b, K, *spatial] -> logits float[b, 1, *patches], positive where it looks true.

    Isola et al., 2017: convolutions of side 4, `layers` of them with stride 2, then two with stride 1, each with leaky ReLU of .2, and norms
    from the second layer on. Where `layers` would make a side smaller than 4, fewer have stride 2. Weights start from N(0, .02), as
    in the paper. Raises RecipeError where a side is below 4.
    """

    def __init__(self, spec: AdversarySpec, condition: tuple[int, ...], candidates: int) -> None:
        """condition: (C, *spatial) of the image that both candidates belong to; candidates: K, channels of what is judged."""
        super().__init__()
        channels, *sides = condition
        dims, smallest = len(sides), min(sides)
        if smallest < SMALLEST_SIDE:
            raise RecipeError(
                f"recipe key 'adversary' needs images of at least {SMALLEST_SIDE} pixels a side, but one side has {smallest}; set adversary=null"
            )
        halvings = min(spec.layers, (smallest // SMALLEST_SIDE).bit_length() - 1)
        widths = [channels + candidates, *(spec.width * min(2**layer, 8) for layer in range(spec.layers + 1))]
        strides = [2] * halvings + [1] * (spec.layers + 1 - halvings)
        # Side 4 with padding 1 takes a pixel at stride 1; the layers that were to halve keep the size with side 3 instead.
        sizes = [4] * halvings + [3] * (spec.layers - halvings) + [4]
        self.layers = nn.ModuleList()
        self.norms = nn.ModuleList()
        for layer, (narrow, wide, stride, size) in enumerate(zip(widths, widths[1:], strides, sizes, strict=False)):
            self.layers.append(CONV[dims](narrow, wide, size, stride=stride, padding=1, bias=layer == 0))
            self.norms.append(normalisation(spec.norm, dims, wide) if layer else nn.Identity())
        self.last = CONV[dims](widths[-1], 1, 4, padding=1)
        for convolution in (*self.layers, self.last):
            nn.init.normal_(convolution.weight, 0.0, 0.02)

    def forward(self, condition: Tensor, candidate: Tensor) -> Tensor:
        x = torch.cat((condition, candidate), dim=1)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = leaky_relu(norm(channels_last(layer(x))), 0.2)
        return self.last(x)
