"""AdamW and Muon: what each is for, and that Muon is what PyTorch calls so."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from distill.config import ConfigError, TrainConfig, check_train
from distill.training.optimizer import Muon, hidden_matrices, make_optimizer, orthogonal


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 6)
        self.layers = nn.ModuleList(
            nn.ModuleDict({"wide": nn.Linear(6, 9), "norm": nn.LayerNorm(9),
                           "back": nn.Linear(9, 6)}) for _ in range(2))
        self.head = nn.Linear(6, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.words(ids)
        for layer in self.layers:
            x = x + layer["back"](layer["norm"](layer["wide"](x)).relu())
        return self.head(x)


def new_model() -> Model:
    torch.manual_seed(0)
    return Model()


def take_steps(model: Model, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(10, (8,), generator=generator)
        model(ids).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_decay_spares_norms_and_biases(name):
    model = new_model()
    config = TrainConfig(optimizer=name, weight_decay=0.1)
    groups = make_optimizer(model, config).param_groups
    for group in groups:
        assert group["weight_decay"] == (0.1 if group["params"][0].ndim > 1 else 0)
        assert len({p.ndim > 1 for p in group["params"]}) == 1
    assert {id(p) for g in groups for p in g["params"]} == set(map(id, model.parameters()))
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing is trained"):
        make_optimizer(model, config)


def test_muon_is_for_trained_matrices_of_stacked_layers():
    model = new_model()
    model.layers[0].requires_grad_(False)
    assert {p.shape for p in hidden_matrices(model)[1]} == {(9, 6), (6, 9)}
    assert len(hidden_matrices(model)[1]) == 2 and set(hidden_matrices(model)) == {1}
    with pytest.raises(ValueError, match="train.optimizer: muon"):
        make_optimizer(nn.Linear(3, 3), TrainConfig(optimizer="muon"))
    with pytest.raises(ConfigError, match="train.optimizer"):
        check_train(TrainConfig(optimizer="sgd"))
    with pytest.raises(ConfigError, match="train.muon_learning_rate"):
        check_train(TrainConfig(muon_learning_rate=1e-3))


def test_singular_values_become_one_and_directions_stay():
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(3, 8, 20, generator=generator)
    matrices *= torch.tensor([1e-3, 1.0, 1e3])[:, None, None]
    found = orthogonal(matrices)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    assert values.max() / values.min() > 1e6
    theirs = left.mT @ found @ right.mT
    diagonal = theirs.diagonal(dim1=1, dim2=2)
    assert diagonal.min() > 0.6 and diagonal.max() < 1.25
    assert (theirs - torch.diag_embed(diagonal)).abs().max() < 1e-4
    assert not orthogonal(torch.zeros(1, 2, 3)).any(), "no gradient, no update"


def test_updates_are_those_of_pytorch(monkeypatch):
    """But for its bfloat16."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    ours, theirs = new_model(), new_model()
    config = TrainConfig(optimizer="muon", learning_rate=0.01, muon_learning_rate=0.02,
                         weight_decay=0.1)
    own = make_optimizer(ours, config)
    matrices = hidden_matrices(theirs)[1]
    muon = torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    known = set(map(id, matrices))
    others = [p for p in theirs.parameters() if id(p) not in known]
    adamw = torch.optim.AdamW([{"params": [p for p in others if p.ndim > 1], "weight_decay": 0.1},
                               {"params": [p for p in others if p.ndim == 1], "weight_decay": 0.0}],
                              lr=0.01)
    before = copy.deepcopy(ours.state_dict())
    for step in range(3):
        take_steps(ours, own, range(step, step + 1))
        take_steps(theirs, _Both(muon, adamw), range(step, step + 1))
    for name, weight in ours.state_dict().items():
        assert (weight - before[name]).abs().max() > 1e-3, name
        assert torch.allclose(weight, theirs.state_dict()[name], atol=1e-5), name


def test_queries_keys_and_values_are_three_matrices():
    torch.manual_seed(0)
    layer = nn.ModuleDict({"qkv": nn.Linear(8, 24, bias=False)})
    model = nn.ModuleDict({"blocks": nn.ModuleList([layer])})
    optimizer = make_optimizer(model, TrainConfig(optimizer="muon", learning_rate=1.0))
    weight = layer["qkv"].weight
    sizes = torch.tensor([1.0, 100.0, 0.01]).repeat_interleave(8)
    weight.grad = torch.randn_like(weight) * sizes[:, None]
    before = weight.detach().clone()
    optimizer.step()
    for part in (before - weight.detach()).chunk(3):
        assert 0.5 < torch.linalg.svdvals(part).median() / (0.2 * 8**0.5) < 1.3


class _Both:
    def __init__(self, *optimizers: torch.optim.Optimizer):
        self.optimizers = optimizers

    def step(self) -> None:
        for each in self.optimizers:
            each.step()

    def zero_grad(self, set_to_none: bool) -> None:
        for each in self.optimizers:
            each.zero_grad(set_to_none=set_to_none)


def test_a_loaded_state_goes_on_bit_for_bit(tmp_path):
    config = TrainConfig(optimizer="muon", learning_rate=0.01)
    whole, parts = new_model(), new_model()
    take_steps(whole, make_optimizer(whole, config), range(6))
    first = make_optimizer(parts, config)
    take_steps(parts, first, range(3))
    torch.save(first.state_dict(), tmp_path / "state")
    second = make_optimizer(parts, config)
    assert isinstance(second, Muon)
    second.load_state_dict(torch.load(tmp_path / "state"))
    take_steps(parts, second, range(3, 6))
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, parts.state_dict()[name]), name


def test_a_step_that_overflows_is_left_out():
    """As float16 does; fused AdamW looks after that itself."""
    model = new_model()
    optimizer = make_optimizer(model, TrainConfig(optimizer="muon", learning_rate=0.1))
    scaler = torch.amp.GradScaler("cpu")
    before = copy.deepcopy(model.state_dict())
    for factor, moves in ((torch.inf, False), (1.0, True)):
        loss = model(torch.arange(8)).square().mean() * factor
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        for name, weight in model.state_dict().items():
            assert weight.isfinite().all(), name
            assert torch.equal(weight, before[name]) != moves, name
