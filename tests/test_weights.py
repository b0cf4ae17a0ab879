"""Quantised, offloaded and LoRA models: a hash for each, and captures, edits, guidance and `auto` as on any other."""

from __future__ import annotations

import altered
import pytest
import tiny
import torch
from hand import by_hand, near

import dg_tools as dg
from dg_tools.experiments.directions import noised_copy
from dg_tools.guidance import auto
from dg_tools.guidance.auto import price, samples, scan, store
from dg_tools.metrics import WeakModelRule
from dg_tools.models.provenance import weights_hash

CALL = {**tiny.CALL, "steps": 2, "progress": False}
CHANNELS, BLOCK, W = [3, 7], 1, 0.8


def prepared(kind):
    """A tiny SD3 with one massive channel, altered."""
    pipe = tiny.sd3()
    tiny.plant(pipe, 1, [5, 20], 400.0)
    if kind != "plain":
        altered.KINDS[kind](pipe)
    return dg.load(pipe)


@pytest.fixture(scope="module")
def models():
    """Altered models by kind, built on first use."""
    built = {}

    def get(kind):
        if kind not in built:
            built[kind] = prepared(kind)
        return built[kind]

    return get


def run(dit, scale=1.0):
    """The pipeline's own call."""
    arguments = dit.arguments("a", seed=0, steps=2, max_sequence_length=8, guidance_scale=scale, **tiny.SIZE)
    return dit.pipeline(**arguments, output_type="latent")[0]


@pytest.mark.parametrize("kind", altered.KINDS)
class TestEveryKind:
    def test_hash(self, models, kind):
        """Its own where the picture is another, the plain model's where it is not; a run changes nothing."""
        dit = models(kind)
        before = weights_hash(dit)
        same_picture = torch.equal(run(dit), run(models("plain")))
        assert same_picture == (kind in altered.OFFLOADED)
        assert (before == weights_hash(models("plain"))) == same_picture
        assert weights_hash(dit) == weights_hash(prepared(kind)) == before

    def test_capture_and_find(self, models, kind):
        dit, means = models(kind), []
        module = dit.transformer.transformer_blocks[BLOCK]
        handle = module.register_forward_hook(lambda m, i, o: means.append(o[1][-1].mean(0)))
        run(dit)
        handle.remove()
        acts = dg.capture(dit, "a", seeds=0, **CALL)
        captured = torch.tensor(acts.data["mean"].sel(site=dit.sites[BLOCK], stream="image").squeeze().values)
        assert torch.allclose(captured, torch.stack(means), atol=1e-4, rtol=1e-5)
        assert set(dg.find_massive(acts).channels) >= {5, 20}

    @pytest.mark.parametrize(("way", "scale"), [("fork", 1.0), ("fork", 3.0), ("partial", 3.0), ("whole", 3.0)])
    def test_guidance(self, models, kind, scale, way):
        dit = models(kind)
        plain = run(dit, scale)
        with by_hand(dit.transformer, scale, weight=W, channels=CHANNELS, block=BLOCK):
            theirs = run(dit, scale)
        guider = dg.DetailGuidance(detail_guidance_scale=W, disrupt=dg.Disrupt(CHANNELS, BLOCK))
        with dg.detail_guidance(dit, guider, way=way) as record:
            ours = run(dit, scale)
        near(ours, theirs, plain)
        assert record.report.finished and torch.equal(run(dit, scale), plain)

    def test_edit(self, models, kind):
        dit = models(kind)
        with by_hand(dit.transformer, 1.0, weight=W, channels=CHANNELS, block=BLOCK, edited=True):
            theirs = run(dit)
        with dg.Disrupt(CHANNELS, BLOCK).on(dit):
            ours = run(dit)
        near(ours, theirs, run(dit))

    def test_auto(self, models, kind, monkeypatch, tmp_path):
        """It chooses, keeps the choice under the hash, and reads it again."""
        dit = models(kind)
        monkeypatch.setattr(store, "cache_folder", lambda: tmp_path)
        monkeypatch.setattr(scan, "SIGMAS", (0.5,))
        monkeypatch.setattr(scan, "RHOS", (2.0,))
        monkeypatch.setattr(price, "FINALISTS", 1)
        monkeypatch.setattr(samples, "LOW_KEPT", -1.0)
        # random weights lack detail by chance only: here every weak model counts
        monkeypatch.setattr(scan, "RULE", WeakModelRule(-99.0, 99.0, -1.0, 0.0, -99.0, -99.0))
        profile = auto.auto_profile(dit, **CALL)
        assert set(profile["channels"]) >= {5, 20} and profile["rho"] == 2.0
        assert [file.stem for file in tmp_path.iterdir()] == [weights_hash(dit)]
        monkeypatch.setattr(scan, "trial_of", lambda *a: pytest.fail("scanned again"))
        assert auto.auto_profile(dit, **CALL) == profile

    def test_noise(self, models, kind):
        """Auto-guidance's noise is refused where a weight is not a matrix of numbers that is held in one place."""
        dit, guider = models(kind), dg.baselines.AutoGuidance(1.0, 0.5)
        plain = run(dit)
        if kind in ("model", "lora"):
            with dg.detail_guidance(dit, guider):
                assert not torch.equal(run(dit), plain)
        else:
            words = "quantised" if kind in ("int8", "quanto", "gguf", "nf4") else "layer by layer or cast"
            with pytest.raises(ValueError, match=f"{words}.*pass weak_model="):
                with dg.detail_guidance(dit, guider):
                    run(dit)
        assert torch.equal(run(dit), plain)
        if kind != "model":
            with pytest.raises(ValueError, match="noise is added to weight matrices"):
                noised_copy(dit.transformer, 0.1)

    def test_trace(self, models, kind):
        """Reads what a hook reads, a second time too, and gives offloading its forwards back."""
        dit, means = models(kind), []
        module = dit.transformer.transformer_blocks[BLOCK]
        handle = module.register_forward_hook(lambda m, i, o: means.append(o[1].mean().item()))
        plain = run(dit)
        handle.remove()
        dit.unwrap()
        before = [vars(m).get("forward") is None for m in dit.transformer.modules()]
        for _ in range(2):
            kept = []
            with dit.trace("a", seed=0, steps=2, max_sequence_length=8, **tiny.SIZE) as traced:
                for step in traced.steps:
                    kept.append(dit.blocks[BLOCK].image.mean().item())
            assert kept == pytest.approx(means, rel=1e-4)
        dit.unwrap()
        assert [vars(m).get("forward") is None for m in dit.transformer.modules()] == before
        assert torch.equal(run(dit), plain)


@pytest.mark.parametrize("kind", altered.QUANTISED)
def test_a_stored_value_that_changes_is_seen(kind):
    """One value of one weight, in what it is stored as."""
    dit = prepared(kind)
    before = weights_hash(dit)
    weight = dit.transformer.transformer_blocks[BLOCK].ff.net[2].weight
    stored = {"int8": "qdata", "quanto": "_data"}.get(kind)
    with torch.no_grad(), torch._C.DisableTorchFunctionSubclass():
        bytes_ = (weight.detach() if stored is None else getattr(weight, stored)).view(torch.uint8)
        bytes_.flatten()[5] += 1
    assert weights_hash(dit) != before


class TestLora:
    """Names and scales belong to the hash; a model on which no adapter acts is the model without."""

    @pytest.fixture
    def dit(self):
        pipe = tiny.sd3()
        altered.lora(pipe)
        return dg.load(pipe)

    def states(self, dit):
        """(hash, picture) by state."""
        transformer = dit.transformer
        found = {"at 0.7": (weights_hash(dit), run(dit))}
        for name, change in {
            "at 0.2": lambda: transformer.set_adapters(["style"], [0.2]),
            "at 0": lambda: transformer.set_adapters(["style"], [0.0]),
            "at 0.7 again": lambda: transformer.set_adapters(["style"], [0.7]),
            "disabled": transformer.disable_lora,
            "enabled": transformer.enable_lora,
            "fused": lambda: transformer.fuse_lora(),
            "unfused": transformer.unfuse_lora,
        }.items():
            change()
            found[name] = (weights_hash(dit), run(dit))
        return found

    def test_states(self, dit):
        plain = dg.load(tiny.sd3())
        found = {**self.states(dit), "without": (weights_hash(plain), run(plain))}
        for a, (hash_a, picture_a) in found.items():
            for b, (hash_b, picture_b) in found.items():
                if "unfused" not in (a, b):  # the last bits of the weights are others then
                    assert (hash_a == hash_b) == torch.equal(picture_a, picture_b), (a, b)
        assert found["disabled"][0] == found["at 0"][0] == found["without"][0]
        assert len({found[name][0] for name in ("at 0.7", "at 0.2", "disabled", "fused")}) == 4

    def test_fused_and_unloaded(self, dit):
        """The weights of the model that is left, by any other name."""
        dit.transformer.fuse_lora()
        fused = weights_hash(dit)
        dit.transformer.unload_lora()
        assert weights_hash(dg.load(dit.pipeline)) == fused

    def test_disabled_while_fused(self, dit):
        """peft takes the adapter out again at the next forward: not the picture of the fused model."""
        dit.transformer.fuse_lora()
        fused = weights_hash(dit)
        dit.transformer.disable_lora()
        assert weights_hash(dit) != fused

    def test_several(self, dit):
        """Another name, another order and a second adapter that does not act."""
        from peft import LoraConfig

        transformer, active = dit.transformer, weights_hash(dit)
        config = LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False)
        transformer.add_adapter(config, "light")
        transformer.set_adapters(["style"], [0.7])
        assert weights_hash(dit) == active
        hashes = set()
        for names, scales in ((["style", "light"], [0.7, 0.5]), (["style", "light"], [0.5, 0.7]), (["light"], [0.5])):
            transformer.set_adapters(names, scales)
            hashes.add(weights_hash(dit))
        assert len({*hashes, active}) == 4

    def test_quantised_and_offloaded_under_an_adapter(self):
        plain, both = dg.load(tiny.sd3()), dg.load(tiny.sd3())
        altered.int8(plain.pipeline)
        altered.int8(both.pipeline)
        altered.lora(both.pipeline)
        active = weights_hash(both)
        altered.whole(both.pipeline)
        assert weights_hash(both) == active
        both.transformer.disable_lora()
        assert weights_hash(both) == weights_hash(plain)


def test_groups_that_are_offloaded_to_disk(tmp_path):
    """Their tensors hold nothing between two runs; the values are in files."""
    dit = dg.load(tiny.sd3())
    plain = weights_hash(dit)
    for kind in ("block_level", "leaf_level"):
        moved = dg.load(tiny.sd3())
        moved.transformer.enable_group_offload(
            onload_device=altered.CPU, offload_type=kind, num_blocks_per_group=1, offload_to_disk_path=tmp_path / kind
        )
        assert weights_hash(moved) == plain
        picture = run(moved)
        with torch.no_grad():
            for weight in moved.transformer.transformer_blocks[0].parameters():
                weight.data.zero_()  # memory that was let go may hold anything
        assert weights_hash(moved) == plain
        assert torch.allclose(picture, run(dit), rtol=1e-4, atol=1e-4)  # mapped memory may take other kernels


def test_hooks_that_are_gone_do_not_count(dits):
    """A step cache that was on leaves its registry behind: noise is added all the same."""
    from diffusers import FirstBlockCacheConfig

    dit = dg.load(tiny.flux())
    dit.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    dit.transformer.disable_cache()
    assert hasattr(dit.transformer.transformer_blocks[0], "_diffusers_hook")
    with dg.detail_guidance(dit, dg.baselines.AutoGuidance(1.0, 0.5)):
        assert not torch.equal(run(dit), run(dits("flux")))


def test_weights_that_are_nowhere():
    dit = dg.load(tiny.sd3())
    dit.transformer.to("meta")
    with pytest.raises(ValueError, match="meta device and has no value: load the model's weights first"):
        weights_hash(dit)


def test_moved_weights_are_not_hashed_again(models, monkeypatch):
    """Offloading and layerwise casting move them in every run."""
    for kind in ("model", "fp8", "group"):
        dit = models(kind)
        weights_hash(dit)
        run(dit)
        with monkeypatch.context() as patch:
            patch.setattr("hashlib.sha256", lambda: pytest.fail("hashed again"))
            weights_hash(dit)
