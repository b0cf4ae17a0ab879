"""A real picture, noised and looked into, against plain hooks; and the reductions against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

import dg_tools as dg
from dg_tools.activations import reduce, statistics
from dg_tools.models.pictures import encode
from dg_tools.onestep import conditions, velocity

WORDS = {"max_sequence_length": 8}


def picture(seed: int = 0) -> torch.Tensor:
    return torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_equals_plain_hooks_at_the_same_noise(dit):
    pictures, off = [picture(0), picture(1)], dg.Disrupt([2], 1)
    acts = dg.capture_image(
        dit, pictures, sigma=[0.3, 0.9], prompt=["", "tree"], seeds=[0, 4], edits=off, raw=[2], progress=False, **WORDS
    )
    assert acts.data.sigma.values.tolist() == [0.9, 0.3] and acts.grid == (8, 12)
    assert acts.data["picture_index"].values.tolist() == [0, 1]
    latents = encode(dit, torch.stack(pictures))
    noise = torch.randn(latents[:1].shape, generator=torch.Generator().manual_seed(4))
    seen, handles = [], [b.module.register_forward_hook(lambda m, i, o: seen.append(o)) for b in dit.blocks]
    with off.on(dit):  # its hooks come after these: what it gives is seen from the next block on
        try:
            velocity(dit, 0.7 * latents[1:] + 0.3 * noise, 0.3, conditions(dit, ["tree"], 32, 48, **WORDS))
        finally:
            for handle in handles:
                handle.remove()
    last = seen[-len(dit.blocks) :]
    data = acts.data.isel(prompt=1, step=1).sel(seed=4, branch="cond")
    for block in dit.blocks[2:]:
        expected = block.record.get(last[block.index], "image", 96)[0]
        assert np.array_equal(data["abs_max"].sel(stream="image").isel(site=block.index), expected.abs().amax(0))
    raw = data["hidden_states"].isel(raw_step=1, raw_site=0)
    assert np.array_equal(raw, dit.blocks[2].record.get(last[2], "image", 96)[0])
    assert (data["abs_mean"].sel(stream="image").isel(site=1)[2] == 0).item()


def test_pictures_in_every_form(dits, tmp_path):
    dit, given = dits("sd3"), picture()
    array = ((given + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    exact = torch.from_numpy(array.copy()).permute(2, 0, 1).float() / 127.5 - 1
    Image.fromarray(array).save(tmp_path / "apple.png")
    forms = [exact, exact.numpy(), array, Image.fromarray(array), tmp_path / "apple.png"]
    all_ = [dg.capture_image(dit, form, progress=False, **WORDS).data for form in forms]
    assert all(one.equals(all_[0]) for one in all_[1:])
    assert np.array_equal(all_[0]["picture"].squeeze(), array)
    made = dg.capture(dit, "apple", progress=False, **tiny.CALL).data
    assert set(all_[0]) == set(made) and all(set(all_[0][v].dims) == set(made[v].dims) for v in made)


def test_a_bright_tensor_says_its_span(dits):
    bright = picture() * 0.4 + 0.5
    with pytest.raises(ValueError, match="say which with span"):
        dg.capture_image(dits("sd3"), bright, progress=False, **WORDS)
    for span, meant in (((-1, 1), bright), ((0, 1), bright * 2 - 1)):
        made = dg.capture_image(dits("sd3"), bright, span=span, progress=False, **WORDS).data["picture"].squeeze()
        assert np.abs(made.astype(float) - (meant.permute(1, 2, 0).numpy() + 1) * 127.5).max() < 1


def test_what_is_no_picture_or_noise_level(dits):
    for image, sigma, error, message in (
        (torch.full((3, 33, 48), -0.5), 0.5, ValueError, "multiples of"),
        ([picture(), torch.full((3, 48, 48), -0.5)], 0.5, ValueError, "one size"),
        (picture() * 3, 0.5, ValueError, r"must lie in \[-1, 1\]"),
        (np.zeros((32, 48), np.uint8), 0.5, ValueError, "not a picture"),
        ("apple.png", 0.5, FileNotFoundError, "apple.png: there is no such picture file"),
        (3, 0.5, TypeError, "an int is not a picture"),
        ([], 0.5, ValueError, "empty list"),
        (picture(), 0.0, ValueError, "above 0"),
        (picture(), [0.5, 1.2], ValueError, "above 0"),
        (picture(), [], ValueError, "above 0"),
    ):
        with pytest.raises(error, match=message):
            dg.capture_image(dits("sd3"), image, sigma=sigma, progress=False, **WORDS)
    with pytest.raises(ValueError, match="2 prompts for 1 picture:"):
        dg.capture_image(dits("sd3"), picture(), prompt=["a", "b"], progress=False, **WORDS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_reductions_in_bites_equal_numpy(monkeypatch, dtype):
    monkeypatch.setattr(reduce, "BITE", 1000)  # many bites
    x = torch.randn(2, 173, 40, generator=torch.Generator().manual_seed(0)) * torch.logspace(-2, 2, 40)
    x[..., 7] += 500  # a large constant: its variance must not drown in it
    x = x.to(dtype)
    quantiles = (0.0, 0.25, 0.5, 0.999, 1.0)
    made = statistics(x, quantiles)
    for row in range(2):
        a = x[row].double().numpy()
        size = np.abs(a)
        close = lambda name, value, row=row: np.testing.assert_allclose(made[name][row], value, rtol=1e-5, atol=1e-6)  # noqa: E731
        close("mean", a.mean(0)), close("abs_mean", size.mean(0)), close("positive", (a > 0).mean(0))
        np.testing.assert_allclose(made["variance"][row], a.var(0), rtol=1e-3, atol=1e-12)
        close("abs_max", size.max(0)), close("token_max", size.max(1))
        close("token_norm", np.linalg.norm(a, axis=1)), close("median_abs_mean", np.sort(size.mean(0))[19])
        assert np.sort(size.ravel())[::-1][:3].tolist() == made["top_value"][row].abs().tolist()
        top = [made[f"top_{n}"][row].tolist() for n in ("value", "token", "channel")]
        for value, token, channel in zip(*top, strict=True):
            assert a[token, channel] == value
        exact = np.quantile(size, quantiles, method="inverted_cdf")
        np.testing.assert_allclose(made["quantile"][row], exact, rtol=0.016)
    assert (made["clipped"] == 0).all()
