"""The fused latent attention against its reference: scattered slots, unequal lengths, head counts off the group."""

from __future__ import annotations

import pytest
import torch

from kodkod_engine.kernels import latent_attention as module
from kodkod_engine.kernels.latent_attention import latent_attention, reference


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("heads", [1, 4, 6, 22])
@pytest.mark.parametrize("context", [1, 17, 64, 67, 300])
@pytest.mark.parametrize("threads", [1, 2])
def test_equals_the_reference(
    tokens: int, heads: int, context: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one thread sixteen heads go together, with several fewer; contexts that fill their last block or do not."""
    monkeypatch.setattr(module, "get_num_threads", lambda: threads)
    nope, rope, value, rank = 16, 8, 12, 40
    generator = torch.Generator().manual_seed(tokens + 10 * heads + 100 * context)
    query = torch.randn(tokens, heads, nope + rope, generator=generator)
    latents = torch.randn(512, rank + rope, generator=generator)
    slots = torch.stack([torch.randperm(512, generator=generator)[:context] for _ in range(tokens)])
    positions = torch.randint(0, context, (tokens,), generator=generator)
    kv_weight = torch.randn(heads, nope + value, rank, generator=generator) / rank**0.5
    case = (query, latents, slots, positions, kv_weight, 0.1, value)
    torch.testing.assert_close(latent_attention(*case), reference(*case), rtol=1e-4, atol=1e-5)


def test_places_after_the_position_are_never_read() -> None:
    query, latents = torch.randn(1, 4, 24), torch.randn(16, 48)
    latents[5:] = float("nan")
    out = latent_attention(query, latents, torch.arange(16)[None], torch.tensor([4]), torch.randn(4, 28, 40), 0.1, 12)
    assert out.isfinite().all()


def test_what_is_no_number_stays_with_its_head() -> None:
    query, latents = torch.randn(1, 4, 24), torch.randn(16, 48)
    case = (latents, torch.arange(16)[None], torch.tensor([9]), torch.randn(4, 28, 40), 0.1, 12)
    clean = latent_attention(query, *case)
    query[0, 2, 3] = float("nan")
    out = latent_attention(query, *case)
    assert out[0, 2].isnan().all()
    others = [0, 1, 3]
    torch.testing.assert_close(out[0, others], clean[0, others])


def test_a_place_far_below_the_best_weighs_nothing() -> None:
    query, latents = torch.full((1, 1, 2), 50.0), torch.tensor([[50.0, 50.0], [-50.0, -50.0]])
    case = (query, latents, torch.arange(2)[None], torch.tensor([1]), torch.ones(1, 2, 1), 1.0, 1)
    torch.testing.assert_close(latent_attention(*case), reference(*case))
