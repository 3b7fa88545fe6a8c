"""Language models of Hugging Face as networks of token ids, cut after their layers.

Both are the model itself, written as torch.fx can follow it, with the mean over the
tokens that are no padding after every layer. Samples may leave at these means.
"""

import torch
from torch import Tensor, fx, nn


class MaskedMean(nn.Module):
    """The mean over the tokens that are no padding: one row for each sample."""

    def forward(self, hidden: Tensor, real: Tensor) -> Tensor:
        weight = real.unsqueeze(-1).type_as(hidden)
        return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)


@fx.wrap  # not traced into, since what a layer returns is known when it runs only
def first(found):
    return found[0] if isinstance(found, tuple) else found


class Encoder(nn.Module):
    def __init__(self, embeddings, layers, padding=0):
        super().__init__()
        self.embeddings, self.layers, self.padding = embeddings, layers, padding
        self.means = nn.ModuleList(MaskedMean() for _ in layers)

    def forward(self, ids):
        real = ids != self.padding
        hidden = self.embeddings(ids)
        # Added to the scores of attention, so that nobody looks at padding.
        bias = torch.where(real, 0.0, -1e4)[:, None, None].type_as(hidden)
        for layer, mean in zip(self.layers, self.means, strict=True):
            hidden = first(layer(hidden, bias))
            pooled = mean(hidden, real)
        return pooled


class Decoder(nn.Module):
    """The same for GPT-2, whose tokens look at earlier ones only."""

    def __init__(self, model, padding):
        super().__init__()
        self.model, self.padding = model, padding
        self.means = nn.ModuleList(MaskedMean() for _ in model.h)
        self.last = MaskedMean()

    def forward(self, ids):
        real = ids != self.padding
        place = torch.ones_like(ids).cumsum(1) - 1
        hidden = self.model.wte(ids) + self.model.wpe(place)
        seen = real[:, None, None] & (place[:, None, :, None] >= place[:, None, None])
        bias = torch.where(seen, 0.0, -1e4).type_as(hidden)
        for layer, mean in zip(self.model.h, self.means, strict=True):
            hidden = first(layer(hidden, attention_mask=bias))
            mean(hidden, real)
        return self.last(self.model.ln_f(hidden), real)
