"""Bad input: a clear error before any forward, and nothing left on the model after it."""

from __future__ import annotations

import logging
import threading
import time

import pytest
import tiny
import torch

import dg_tools as dg
from dg_tools.generation._generate import Interrupted


@pytest.fixture(scope="module")
def dit():
    return dg.load(tiny.sd3())


@pytest.fixture(autouse=True)
def clean(request):
    """After every test here: no hook, no edit, no lock, and the stock pipeline's bytes."""
    if "dit" not in request.fixturenames:
        yield
        return
    dit = request.getfixturevalue("dit")
    call = dit.arguments("apple", seed=1, **tiny.CALL)
    before = dit.pipeline(**call, output_type="latent").images
    yield
    hooks = [m for m in dit.transformer.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert not hooks and dit.tracer is None and torch.is_grad_enabled()
    taken = threading.Thread(target=lambda: dit.active.lock.acquire(timeout=1) and dit.active.lock.release())
    taken.start(), taken.join(5)
    assert not taken.is_alive()
    again = dit.arguments("apple", seed=1, **tiny.CALL)
    assert torch.equal(dit.pipeline(**again, output_type="latent").images, before)


def refuse_forwards(dit, monkeypatch):
    def forward(*args, **kwargs):
        raise AssertionError("a forward ran before the error")

    monkeypatch.setattr(dit.transformer, "forward", forward)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"edits": dg.Disrupt([3], 9)}, IndexError, "block 9 requested; there are 0 to 3"),
        ({"edits": dg.Disrupt([99], 0)}, IndexError, "channel 99 requested; there are 0 to 31"),
        ({"edits": dg.Disrupt([3], 0, tokens=[96])}, IndexError, "token 96 requested; there are 0 to 95"),
        ({"edits": dg.Disrupt([3], 0, steps=[3])}, IndexError, "step 3 requested; there are 0 to 2"),
        ({"edits": [[None, dg.Disrupt([3], 9)]]}, IndexError, "block 9"),
        ({"edits": "zero"}, TypeError, "an edit is a str"),
        ({"guidance": 3.0}, TypeError, "guidance is a float"),
        ({"guidance": dg.DetailGuidance(1.0, 1.0, dg.Disrupt([3], 9))}, IndexError, "block 9"),
        ({"height": 30}, ValueError, "multiples of 4 pixels .* such as 28 x 48"),
        ({"height": 128}, ValueError, "positions end at 64"),
        ({"steps": 0}, ValueError, "steps=0 requested"),
        ({"seed": []}, ValueError, "nothing to generate"),
    ],
)
def test_generate_refuses(dit, monkeypatch, arguments, error, words):
    with monkeypatch.context() as patched:
        refuse_forwards(dit, patched)
        with pytest.raises(error, match=words):
            dg.generate(dit, "apple", progress=False, **{**tiny.CALL, **arguments})


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"raw": [9]}, IndexError, "block 9"),
        ({"raw": [0], "cap": 1000}, MemoryError, "the cap is"),
        ({"raw": [0], "raw_steps": [7]}, IndexError, "there are 0 to 2"),
        ({"rows": "uncond"}, ValueError, "allowed: cond, all"),
        ({"seeds": []}, ValueError, "nothing to capture"),
        ({"guidance": dg.DetailGuidance()}, ValueError, "disrupted pass would be mixed in"),
        ({"guidance": dg.CFG(3.0, stop=0.5)}, ValueError, "a window or a rescale would not be seen"),
        ({"edits": dg.Disrupt([3], 9)}, IndexError, "block 9"),
    ],
)
def test_capture_refuses(dit, monkeypatch, arguments, error, words):
    with monkeypatch.context() as patched:
        refuse_forwards(dit, patched)
        with pytest.raises(error, match=words):
            dg.capture(dit, "apple", progress=False, **{**tiny.CALL, **arguments})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"channels": []}, "channels is empty"),
        ({"channels": [3, 3]}, "distinct"),
        ({"channels": [-1]}, "not negative"),
        ({"tokens": []}, "tokens is empty"),
        ({"mode": "blur"}, "allowed: zero, mean"),
        ({"rows": "both"}, "allowed: all, cond, uncond"),
        ({"stream": "audio"}, "allowed: image, text"),
    ],
)
def test_disrupt_refuses(arguments, words):
    with pytest.raises(ValueError, match=words):
        dg.Disrupt(**{"channels": [3], "block": 0, **arguments})
    with pytest.raises(ValueError, match="allowed: shift"):
        dg.Disrupt([3], 0).controls(2, kind="noise")
    with pytest.raises(ValueError, match="at least 1"):
        dg.Disrupt([3], 0).controls(0)


def test_load_refuses(tmp_path):
    with pytest.raises(FileNotFoundError, match="not an embedded model"):
        dg.load("emoji-sd4")
    with pytest.raises(FileNotFoundError, match="no model_index.json .there is: nothing"):
        dg.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="could not load 'owner/name'.*A Hub id needs network access"):
        dg.load("owner/name", cache_dir=tmp_path, local_files_only=True)
    pipeline = tiny.sd3()
    pipeline.save_pretrained(tmp_path / "pickled", safe_serialization=False)
    with pytest.raises(ValueError, match="safetensors only"):
        dg.load(tmp_path / "pickled")
    pipeline.transformer.__class__ = type("OtherTransformer", (type(pipeline.transformer),), {})
    with pytest.raises(ValueError, match="no family record for OtherTransformer; there are SD3Transformer2DModel"):
        dg.load(pipeline)


def test_load_refuses_a_folder_of_a_unet_and_a_foreign_record(tmp_path):
    from dataclasses import replace

    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    from dg_tools.families import FLUX, SD3

    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "unet")
    with pytest.raises(ValueError, match="has no transformer .it has: scheduler, unet"):
        dg.load(tmp_path / "unet")
    with pytest.raises(ValueError, match="no block list 'single_transformer_blocks'"):
        dg.load(tiny.sd3(), family=FLUX)
    wrong = replace(SD3, lists=(replace(SD3.lists[0], mlp="feed_forward"),))
    with pytest.raises(ValueError, match="block 0 has no 'feed_forward'"):
        dg.load(tiny.sd3(), family=wrong)


def test_an_edit_that_touches_nothing(dit):
    uncond_only = dg.Disrupt([3], 0, steps=[2])
    with pytest.raises(RuntimeError, match="touched nothing"):
        with uncond_only.on(dit.pipeline):
            dit.pipeline(**dit.arguments("apple", **{**tiny.CALL, "steps": 1}), output_type="latent")
    dg.generate(dit, "apple", guidance=dg.DetailGuidance(1.0, 0.0, uncond_only), progress=False, **tiny.CALL)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, torch.cuda.OutOfMemoryError])
@pytest.mark.parametrize("guided", [False, True])
def test_nothing_is_left_after_a_crash_in_a_block(dit, error, guided):
    """Whatever is raised in the middle of a pass, disrupted or not, the model is clean afterwards."""
    calls = [0]

    def crash(module, inputs, output):
        calls[0] += 1
        if calls[0] == 3:
            raise error("in a block")

    off = dg.Disrupt([3], 1)
    handle = dit.blocks[2].module.register_forward_hook(crash)
    try:
        with pytest.raises((error, Interrupted)):
            guidance = dg.DetailGuidance(2.0, 1.0, off) if guided else None
            dg.generate(dit, "apple", edits=None if guided else off, guidance=guidance, progress=False, **tiny.CALL)
        calls[0] = 0
        with pytest.raises(error if error is not KeyboardInterrupt else BaseException):
            dg.capture(dit, ["apple", "tree"], edits=off, progress=False, **tiny.CALL)
    finally:
        handle.remove()


def test_an_interrupted_run_keeps_what_is_done(dit):
    calls = [0]

    def stop(module, inputs, output):
        calls[0] += 1
        if calls[0] == 5:  # three steps a picture: in the second
            raise KeyboardInterrupt

    handle = dit.transformer.register_forward_hook(stop)
    try:
        with pytest.raises(Interrupted, match="1 of 2 pictures are kept") as caught:
            dg.generate(dit, ["apple", "tree"], progress=False, **tiny.CALL)
    finally:
        handle.remove()
    kept = caught.value.kept
    whole = dg.generate(dit, "apple", progress=False, **tiny.CALL)
    assert len(kept.images) == 1 and torch.equal(kept.latents, whole.latents)


def test_two_threads_take_turns(dit):
    """Each thread's pictures are those that it would have got alone."""
    off = dg.Disrupt([3], 1)
    alone = [dg.generate(dit, "apple", edits=e, progress=False, **tiny.CALL).latents for e in (None, off)]
    made: dict[int, torch.Tensor] = {}

    def work(i):
        made[i] = dg.generate(dit, "apple", edits=[None, off][i % 2], progress=False, **tiny.CALL).latents

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    [t.start() for t in threads]
    time.sleep(0)
    [t.join() for t in threads]
    assert len(made) == 4 and all(torch.equal(made[i], alone[i % 2]) for i in range(4))


def test_a_hub_id_without_network_ends_in_one_short_sentence(tmp_path, monkeypatch):
    """As the libraries report it: an error of their own, raised from that of the connection."""

    def refused(*args, **kwargs):
        raise ConnectionError("[Errno -3] Temporary failure in name resolution " * 9)

    said: list[str] = []
    logger = logging.getLogger("diffusers.pipelines.pipeline_utils")
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr("diffusers.pipelines.pipeline_utils.model_info", refused)
    with pytest.raises(FileNotFoundError, match=r"could not load 'owner/name' \(the Hub cannot be reached") as caught:
        dg.load("owner/name", cache_dir=tmp_path)
    assert len(str(caught.value)) < 160 and not [words for words in said if "connect" in words]
