"""Real checkpoints take the same road: every layout of weights, and every way of placing them, at tiny size."""

from __future__ import annotations

import copy
import shutil

import pytest
import tiny
import torch
from accelerate import cpu_offload
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from safetensors.torch import save_file

import dg_tools as dg
from dg_tools.generation.sampling import run

PROMPT, GUIDER = "a red apple", dg.DetailGuidance(3.0, 0.8, dg.Disrupt([3, 7], 1))
NAMES = ["sd3", "flux"]


def latents(dit, guidance=GUIDER):
    return run(dit, PROMPT, seed=5, guidance=guidance, **tiny.CALL)[0]


def assert_same_model(found, dit):
    """The same weights, bit for bit, and what they draw.

    Weights that lie otherwise in memory, as those of a mapped file do, take other kernels on some processors: latents
    agree to single precision, and to double precision where they are computed in that.
    """
    ours, theirs = found.transformer.state_dict(), dit.transformer.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], v) for k, v in theirs.items())
    for dtype, most in ((torch.float32, 1e-4), (torch.float64, 1e-11)):
        pair = [dg.load(copy.deepcopy(d.pipeline).to(dtype)) for d in (found, dit)]
        a, b = (latents(d) for d in pair)
        assert (a - b).abs().max() <= most * b.abs().max()


@pytest.fixture(scope="module", params=NAMES)
def saved(request, dits, tmp_path_factory):
    """(DiT, folder) of a family's pipeline, saved in shards as large models are."""
    dit = dits(request.param)
    folder = tmp_path_factory.mktemp("saved") / request.param
    dit.pipeline.save_pretrained(folder, max_shard_size="50KB")
    assert len(list((folder / "transformer").glob("*-of-*.safetensors"))) > 1
    assert (folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json").is_file()
    return dit, folder


def test_shards(saved):
    dit, folder = saved
    assert_same_model(dg.load(folder), dit)


def test_a_hub_id_is_resolved_from_a_local_cache(saved, tmp_path, monkeypatch):
    """The cache as the Hub's client lays it out; nothing is fetched."""
    dit, folder = saved
    repository = tmp_path / "models--someone--tiny-dit"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123abcd", encoding="utf-8")
    shutil.copytree(folder, repository / "snapshots" / "0123abcd")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = dg.load("someone/tiny-dit", cache_dir=tmp_path)
    assert_same_model(found, dit)
    with pytest.raises(FileNotFoundError, match=r"nobody/nothing.*filled cache"):
        dg.load("nobody/nothing", cache_dir=tmp_path)


def test_variant_fp16(saved, tmp_path):
    dit, _ = saved
    half = tiny.PIPELINES[dit.family.name]().to(torch.float16)
    half.save_pretrained(tmp_path, variant="fp16")
    assert list((tmp_path / "transformer").glob("*.fp16.safetensors"))
    found = dg.load(tmp_path, variant="fp16")
    assert found.dtype == torch.float32  # "auto" on a CPU
    assert 0 < (latents(found) - latents(dit)).abs().max() / latents(dit).abs().max() < 0.05


def original_layout(model: SD3Transformer2DModel) -> dict[str, torch.Tensor]:
    """An SD3 transformer's weights under the names of the published single file."""
    state, layers = model.state_dict(), len(model.transformer_blocks)
    swapped = lambda w: torch.cat(w.chunk(2)[::-1])  # noqa: E731  (scale, shift) -> (shift, scale)
    made = {"pos_embed": state["pos_embed.pos_embed"]}
    pairs = {
        "x_embedder.proj": "pos_embed.proj", "context_embedder": "context_embedder",
        "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
        "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
        "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2", "final_layer.linear": "proj_out",
    }  # fmt: skip
    for i in range(layers):
        new, old, last = f"joint_blocks.{i}", f"transformer_blocks.{i}", i == layers - 1
        pairs |= {
            f"{new}.x_block.attn.proj": f"{old}.attn.to_out.0", f"{new}.x_block.mlp.fc1": f"{old}.ff.net.0.proj",
            f"{new}.x_block.mlp.fc2": f"{old}.ff.net.2", f"{new}.x_block.adaLN_modulation.1": f"{old}.norm1.linear",
        }  # fmt: skip
        if not last:
            pairs |= {
                f"{new}.context_block.attn.proj": f"{old}.attn.to_add_out",
                f"{new}.context_block.mlp.fc1": f"{old}.ff_context.net.0.proj",
                f"{new}.context_block.mlp.fc2": f"{old}.ff_context.net.2",
                f"{new}.context_block.adaLN_modulation.1": f"{old}.norm1_context.linear",
            }
        for kind in ("weight", "bias"):
            for block, parts in (
                ("x_block", ("to_q", "to_k", "to_v")),
                ("context_block", ("add_q_proj", "add_k_proj", "add_v_proj")),
            ):
                made[f"{new}.{block}.attn.qkv.{kind}"] = torch.cat([state[f"{old}.attn.{p}.{kind}"] for p in parts])
            if last:
                made[f"{new}.context_block.adaLN_modulation.1.{kind}"] = swapped(
                    state[f"{old}.norm1_context.linear.{kind}"]
                )
    for new, old in pairs.items():
        for kind in ("weight", "bias"):
            made[f"{new}.{kind}"] = state[f"{old}.{kind}"]
    for kind in ("weight", "bias"):
        made[f"final_layer.adaLN_modulation.1.{kind}"] = swapped(state[f"norm_out.linear.{kind}"])
    return {f"model.diffusion_model.{k}": v.clone().contiguous() for k, v in made.items()}


def test_from_single_file(dits, tmp_path):
    """SD3's published form. FLUX's converter in diffusers takes a width of 3072 only, so it has no tiny test."""
    dit = dits("sd3")
    dit.pipeline.save_pretrained(tmp_path / "folder")
    save_file(original_layout(dit.transformer), tmp_path / "sd3.safetensors")
    transformer = SD3Transformer2DModel.from_single_file(
        tmp_path / "sd3.safetensors", config=str(tmp_path / "folder"), subfolder="transformer", local_files_only=True
    )
    pipeline = StableDiffusion3Pipeline(**{**dit.pipeline.components, "transformer": transformer})
    pipeline.set_progress_bar_config(disable=True)
    assert_same_model(dg.load(pipeline), dit)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["model", "sequential"])
def test_offload(dits, name, kind):
    """Offloading as diffusers does it; on a CPU the weights go from the CPU to the CPU, by the same hooks."""
    pipeline = tiny.PIPELINES[name]()
    plain = latents(dits(name))
    if kind == "model":
        pipeline.enable_model_cpu_offload(device="cpu")
    else:
        # What enable_sequential_cpu_offload does to a transformer. Its own state dict holds bare tensors, with which
        # accelerate 1.15 fails where both ends are the CPU, also without us.
        model = pipeline.transformer
        cpu_offload(model, "cpu", state_dict={**dict(model.named_parameters()), **dict(model.named_buffers())})
    dit = dg.load(pipeline)
    assert torch.equal(latents(dit), plain)
    unguided = latents(dit, dg.CFG(3.0))
    assert torch.equal(unguided, latents(dits(name), dg.CFG(3.0)))
    with pytest.raises(KeyboardInterrupt):
        with dg.detail_guidance(pipeline, GUIDER):
            latents(dit, dg.CFG(3.0))
            raise KeyboardInterrupt
    assert torch.equal(latents(dit, dg.CFG(3.0)), unguided)
    hidden = dg.capture(dit, PROMPT, seeds=5, progress=False, **tiny.CALL).data["abs_mean"]
    there = dg.capture(dits(name), PROMPT, seeds=5, progress=False, **tiny.CALL).data["abs_mean"]
    assert hidden.identical(there)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(name, dtype):
    """Steps and branches are read right from coarse timesteps: the same passes, as near to single precision as CFG."""
    dit = dg.load(tiny.PIPELINES[name]().to(dtype))
    made, count = run(dit, PROMPT, seed=5, guidance=GUIDER, **tiny.CALL)
    assert made.isfinite().all() and count.forwards == 9
    wide, plain = dg.load(tiny.PIPELINES[name]()), latents(dit, dg.CFG(3.0))
    error, usual = latents(wide) - made.float(), latents(wide, dg.CFG(3.0)) - plain.float()
    assert error.norm() < 2 * usual.norm()
    with dg.detail_guidance(dit, GUIDER.new(detail_guidance_scale=0.0), force=True):
        assert torch.equal(latents(dit, dg.CFG(3.0)), plain)


@pytest.mark.parametrize("name", NAMES)
def test_a_transformer_compiled_as_a_whole_is_refused(name):
    """Nothing acts between its blocks, so an edit would silently do nothing; compiled blocks are in test_compiled."""
    compiled = tiny.PIPELINES[name]()
    compiled.transformer.compile()
    with pytest.raises(ValueError, match=r"compiled as a whole.*block\.compile\(\)"):
        latents(dg.load(compiled))
    compiled = tiny.PIPELINES[name]()
    compiled.transformer = torch.compile(compiled.transformer)
    with pytest.raises(ValueError, match=r"compiled as a whole"):
        dg.load(compiled)
