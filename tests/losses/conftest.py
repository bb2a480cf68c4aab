import pytest
import torch

TOKENS, WIDTH, VOCAB = 13, 6, 29


@pytest.fixture
def numbers():
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "hidden": normal(TOKENS, WIDTH), "weight": normal(VOCAB, WIDTH),
        "teacher_hidden": normal(TOKENS, WIDTH), "teacher_weight": normal(VOCAB, WIDTH),
        "labels": torch.randint(VOCAB, (TOKENS,), generator=generator),
    }
