"""Texts of different lengths, padded to one, give what each gives alone."""

import copy

import numpy as np
import pytest
import torch
from encoders import Decoder, Encoder, MaskedMean
from torch import nn
from torch.nn import functional as F

from sk_e2cm import E2CMClassifier, TorchExtractor
from sk_e2cm._multi_exit._pooling import make_pooling
from sk_e2cm.metrics import first_exit

from .._extractors._torch.helpers import assert_close, assert_right, at_seed, halving

WIDTH, LENGTH, VOCABULARY = 16, 12, 40
MEANS = ["means.0", "means.1", "means.2"]


class Embeddings(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.places = nn.Embedding(LENGTH, WIDTH)

    def forward(self, ids):
        return self.tokens(ids) + self.places(torch.ones_like(ids).cumsum(1) - 1)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attended = nn.Linear(WIDTH, 3 * WIDTH)
        self.mixed = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, hidden, bias):
        heads = self.attended(hidden).unflatten(2, (3, 4, -1)).permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(*heads.unbind(0), attn_mask=bias)
        return self.norm(hidden + self.mixed(found.transpose(1, 2).flatten(2)).tanh())


class TupleLayer(Layer):
    """As transformers 4 has them."""

    def forward(self, hidden, bias):
        return (super().forward(hidden, bias),)


def encoder(padding=0, layer=Layer, n_layers=4):
    layers = nn.ModuleList(layer() for _ in range(n_layers))
    return Encoder(Embeddings(), layers, padding).eval()


def texts(n, padding=0, seed=0):
    """Return ids of which the last ones are padding, and the lengths of the texts."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, LENGTH + 1, n)
    ids = rng.integers(2, VOCABULARY, (n, LENGTH))
    ids[np.arange(LENGTH) >= lengths[:, None]] = padding
    return torch.from_numpy(ids), lengths.tolist()


@pytest.fixture(scope="module", params=[Layer, TupleLayer])
def network(request):
    return at_seed(0, lambda: encoder(layer=request.param))


def test_a_masked_mean_is_the_mean_of_what_is_not_masked():
    hidden = torch.randn(3, 5, 2)
    real = torch.tensor([[1, 1, 0, 0, 0], [0, 1, 0, 1, 1], [1] * 5]).bool()
    expected = [rows[which].mean(0) for rows, which in zip(hidden, real, strict=True)]
    assert_close(MaskedMean()(hidden, real), torch.stack(expected))
    assert MaskedMean()(hidden, torch.zeros(3, 5).bool()).tolist() == [[0, 0]] * 3


@pytest.mark.parametrize("padding", [0, 1])
def test_a_padded_text_has_the_features_that_it_has_alone(padding):
    network = at_seed(0, lambda: encoder(padding))
    extractor = TorchExtractor(network, MEANS)
    ids, lengths = texts(6, padding)
    together = list(extractor.staged_transform(ids))
    for i, length in enumerate(lengths):
        alone = extractor.staged_transform(ids[i : i + 1, :length])
        for padded, value in zip(together, alone, strict=True):
            assert_close(padded[i : i + 1], value)


@pytest.mark.parametrize("pooling", [1, "auto"])
def test_default_pooling_averages_padding_as_well(pooling):
    extractor = TorchExtractor(at_seed(0, encoder), ["layers.0"])
    ids, _ = texts(1)
    ids[:, 4:] = 0

    def features(ids):
        output = next(extractor.staged_transform(ids))
        return make_pooling(pooling, "", output.shape[1:], output.dtype)(output)

    padded, alone = features(ids), features(ids[:, :4])
    assert (padded - alone).norm() > 0.1 * alone.norm()


@pytest.mark.parametrize("output", [None, "means.3"])
def test_masked_means_stay_right_when_texts_leave(network, output):
    ids, _ = texts(30)
    extractor = TorchExtractor(network, MEANS, output=output)
    assert_right(extractor, network, ids)
    full = list(extractor.staged_transform(ids))
    for (rows, lazy), value in zip(halving(extractor, ids), full, strict=True):
        assert_close(lazy, value[rows])


def test_the_output_may_be_a_mean_that_nothing_uses(network):
    ids, _ = texts(5)
    extractor = TorchExtractor(network, ["means.0"], output="means.2")
    expected = list(TorchExtractor(network, MEANS).staged_transform(ids))[::2]
    for output, value in zip(
        extractor.staged_transform(ids), expected[:2], strict=True
    ):
        assert output.dtype == value.dtype
        assert torch.equal(output, value)


def test_a_masked_mean_costs_what_its_layer_costs(network):
    means = TorchExtractor(network, MEANS).macs((LENGTH,))
    layers = TorchExtractor(network, ["layers.0", "layers.1", "layers.2"])
    np.testing.assert_array_equal(means, layers.macs((LENGTH,)))
    np.testing.assert_allclose(means / means[-1], [0.25, 0.5, 0.75, 1])


@pytest.mark.parametrize("closed", [(), (1,)])
def test_texts_that_leave_early_get_the_answers_of_the_full_pass(network, closed):
    ids, _ = texts(400)
    X, y = ids.numpy(), ids[:, 0].numpy() % 3
    clf = E2CMClassifier(TorchExtractor(network, MEANS)).fit(X[:300], y[:300])
    proba = clf.exit_proba(X[300:])
    threshold = np.quantile(proba[:, :3].max(axis=2), 0.7, axis=0)
    threshold[list(closed)] = np.inf
    clf.set_params(threshold=threshold)
    exits = first_exit(proba, threshold)
    assert set(exits) == {0, 1, 2, 3} - {*closed}
    np.testing.assert_array_equal(clf.predict_exit(X[300:]), exits)
    expected = proba[np.arange(100), exits]
    np.testing.assert_allclose(clf.predict_proba(X[300:]), expected, atol=1e-5)


# Hugging Face


def hugging_face(name):
    """Return a small model with random weights, its padding, and its stages by hand."""
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": VOCABULARY, "max_position_embeddings": LENGTH + 4}
    like_bert = {
        "hidden_size": WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 24,
    }
    padding = 0
    match name:
        case "bert":
            config = transformers.BertConfig(**sizes, **like_bert)
            model = transformers.BertModel(config)
            parts = model.embeddings, model.encoder.layer
        case "roberta":
            padding = 1
            config = transformers.RobertaConfig(**sizes, **like_bert)
            model = transformers.RobertaModel(config)
            parts = model.embeddings, model.encoder.layer
        case "electra":
            config = transformers.ElectraConfig(embedding_size=8, **sizes, **like_bert)
            model = transformers.ElectraModel(config)
            projected = nn.Sequential(model.embeddings, model.embeddings_project)
            parts = projected, model.encoder.layer
        case "distilbert":
            config = transformers.DistilBertConfig(
                dim=WIDTH, n_layers=4, n_heads=4, hidden_dim=24, **sizes
            )
            model = transformers.DistilBertModel(config)
            parts = model.embeddings, model.transformer.layer
        case "gpt2":
            padding = VOCABULARY - 1
            config = transformers.GPT2Config(
                n_embd=WIDTH,
                n_layer=4,
                n_head=4,
                n_positions=LENGTH,
                vocab_size=VOCABULARY,
                bos_token_id=padding,
                eos_token_id=padding,
            )
            model = transformers.GPT2Model(config).eval()
            return model, padding, Decoder(model, padding)
    return model.eval(), padding, Encoder(*parts, padding).eval()


@pytest.mark.parametrize("name", ["bert", "roberta", "electra", "distilbert", "gpt2"])
def test_a_model_of_hugging_face_is_cut_after_its_layers(name):
    model, padding, network = at_seed(0, lambda: hugging_face(name))
    ids, _ = texts(9, padding)
    real = ids != padding
    with torch.no_grad():
        # A copy: to return hidden states, transformers 5 leaves hooks on the layers.
        whole = copy.deepcopy(model)(
            ids, attention_mask=real.long(), output_hidden_states=True
        )
    # GPT-2's last hidden state has been normalised, its last layer's has not.
    hidden = [*whole.hidden_states[1:4], whole.last_hidden_state]
    extractor = TorchExtractor(network, MEANS)
    for output, value in zip(extractor.staged_transform(ids), hidden, strict=True):
        torch.testing.assert_close(output, MaskedMean()(value, real), rtol=0, atol=0)
    assert_right(extractor, network, ids)
