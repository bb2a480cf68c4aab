"""Products by another library: the same numbers, to float32's last bits, and the same gradients."""

import pytest
import torch
from torch import nn

from distill.losses import matmul as products
from distill.losses.matmul import fast_linears, product


@pytest.fixture
def calls(monkeypatch) -> list:
    """Shapes of what went through oneDNN."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch has no oneDNN")
    seen, linear = [], products._linear

    def count(rows, weight, bias):
        seen.append((*rows.shape, len(weight)))
        return linear(rows, weight, bias)

    monkeypatch.setattr(products, "_linear", count)
    return seen


@pytest.mark.parametrize("shape", [(0, 8), (1, 8), (5, 8), (2, 3, 8)])
def test_product(calls, shape):
    rows, weight = torch.randn(shape), torch.randn(11, 8)
    torch.testing.assert_close(product(rows, weight), rows @ weight.T)
    other = torch.randn(8, 11)
    torch.testing.assert_close(product(rows, other.T), rows @ other)  # not contiguous
    assert len(calls) == 2


@pytest.mark.parametrize("bias", [torch.randn(11), None])
def test_few_rows_are_read_by_mkl(calls, monkeypatch, bias):
    """Where this PyTorch has it."""
    weight, rows = torch.randn(11, 8), torch.randn(3, 8)
    for has_mkl, wanted in ((True, [3]), (False, [1, 2, 3])):
        calls.clear()
        monkeypatch.setattr(products, "_HAS_MKL", has_mkl)
        for count in (1, 2, 3):
            found = products.linear(rows[:count], weight, bias)
            torch.testing.assert_close(found, nn.functional.linear(rows[:count], weight, bias))
        assert [count for count, *_ in calls] == wanted


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", ["rows", "weight", None])
def test_linear_layers_and_their_gradients(calls, bias, frozen):
    layer, rows = nn.Linear(8, 11, bias), torch.randn(2, 3, 8, requires_grad=frozen != "rows")
    layer.weight.requires_grad_(frozen != "weight")
    found = []
    for context in (torch.enable_grad(), fast_linears()):
        with context:
            out = layer(rows)
        out.square().sum().backward()
        found.append([out.detach(), rows.grad, *(p.grad for p in layer.parameters())])
        rows.grad = None
        layer.zero_grad(set_to_none=True)
    assert calls
    for plain, fast in zip(*found, strict=True):
        assert (plain is None) == (fast is None)
        if plain is not None:
            torch.testing.assert_close(fast, plain)


def test_nothing_else_changes(calls):
    """Other types, autocast, and layers outside the context."""
    layer, rows = nn.Linear(8, 11), torch.randn(3, 8)
    layer(rows)
    with fast_linears():
        layer.double()(rows.double())
        with torch.autocast("cpu", torch.bfloat16):
            assert layer.float()(rows).dtype == torch.bfloat16
    assert product(rows.double(), torch.randn(11, 8).double()).dtype == torch.float64
    assert not calls
    with fast_linears():
        layer(rows)
    assert len(calls) == 1
