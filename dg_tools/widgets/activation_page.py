"""The page of the activation explorer: its controls and pictures, and their layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ipywidgets as widgets
import traitlets as t

from dg_tools.activations import Activations
from dg_tools.models.dit import DiT
from dg_tools.widgets.capture_lookup import head_count, words_kept
from dg_tools.widgets.capture_panel import CapturePanel
from dg_tools.widgets.parts import check_box, control, row, slider, text_block
from dg_tools.widgets.run_fields import RunFields
from dg_tools.widgets.runner import Messages, Runner
from dg_tools.widgets.saving import SaveRow
from dg_tools.widgets.shown import Shown
from dg_tools.widgets.watch import Tick
from dg_tools.widgets.word_maps import NOT_KEPT


class ActivationPage(widgets.VBox):
    """Controls and pictures, not yet connected to anything.

    Args:
        dit: the model; None where nothing can be run.
        capture, save: what the buttons do.
        steps, height, width: of new captures, as in `RunFields`.

    Attributes:
        run_fields: prompt, seed, steps and scale of a new capture; `words_box`: it keeps maps of words, too.
        controls: each control of a point, by the name of the point's field.
        shown: says whether the capture was made with the settings in the fields; it knows those of the button only.
        panel, beside_panel: the views of the capture, and of a second one; a click on one chooses a token, channel,
            block or step.
    """

    def __init__(
        self,
        dit: DiT | None,
        capture: Callable[[Tick], None],
        save: Callable[[str], list[Path]],
        steps: int | None,
        height: int | None,
        width: int | None,
    ) -> None:
        super().__init__()
        self.add_class("dg-explorer")
        self.add_class("dg-activation-explorer")
        self.messages = Messages()
        self.run_fields = RunFields(dit, steps, height, width)
        self.runner = Runner("Capture", capture, self.messages)
        self.folder = control(widgets.Text, "Saved capture", "300px", placeholder="folder that Activations.save wrote")
        self.opening = widgets.Button(description="Open", icon="folder-open", layout={"width": "90px"})
        self.opening_beside = widgets.Button(description="Open beside", layout={"width": "110px"})
        self.opening_beside.tooltip = "Show a second capture at the same point"
        self._build_controls()
        self._build_pictures()
        self.saving = SaveRow("view.html", save, self.messages)
        self.saving.layout.display = "none"
        self.views = widgets.VBox(
            [
                row(self.prompts, self.seeds, self.branches, self.stream_buttons, self.log_box, self.words, self.heads),
                row(self.block_slider, self.step_slider, self.play, self.token_field, self.channel_field, self.offered),
                self.numbers,
                self.both,
            ],
            layout={"display": "none"},
        )
        self.shown = Shown([self.views], "Capture")
        live = [row(*self.run_fields.row.children, self.words_box, self.runner)] if dit else []
        self.children = [
            *live,
            row(self.folder, self.opening, self.opening_beside, self.saving),
            self.messages,
            self.shown.under_note(self.views),
        ]

    def _build_controls(self) -> None:
        self.prompts = control(widgets.Dropdown, "Run: prompt", "220px", options=[("none yet", 0)])
        self.seeds = control(widgets.Dropdown, "seed", "100px", options=[("none yet", 0)])
        self.branches = control(widgets.Dropdown, "branch", "130px", options=[("cond", 0)])
        self.block_slider = slider("Block", 0, width="230px", at_once=True)
        self.step_slider = slider("Step", 0, width="230px", at_once=True)
        self.play = widgets.Play(interval=200, tooltip="Play the steps", layout={"width": "120px"})
        t.link((self.play, "value"), (self.step_slider, "value"))
        self.channel_field = control(widgets.BoundedIntText, "Channel", "140px", min=0, max=0)
        self.token_field = control(widgets.BoundedIntText, "Token", "130px", min=0, max=0)
        self.offered = control(widgets.ToggleButtons, "Massive", options=[])
        self.offered.style.button_width = "56px"
        self.stream_buttons = control(widgets.ToggleButtons, "Stream", options=["image", "text"])
        self.stream_buttons.style.button_width = "64px"
        self.log_box = check_box("log scale", "110px")
        self.words = control(widgets.Dropdown, "Map", "185px", options=[("activations", "")])
        self.heads = control(widgets.Dropdown, "Head", "90px", options=[("all", -1)])
        self.words_box = check_box("words' attention", "140px")
        self.words_box.tooltip = "Also keep the map of every word of the prompt; the run is made twice"
        self.controls = {
            "prompt": self.prompts,
            "seed": self.seeds,
            "branch": self.branches,
            "block": self.block_slider,
            "step": self.step_slider,
            "channel": self.channel_field,
            "token": self.token_field,
            "stream": self.stream_buttons,
            "log": self.log_box,
            "word": self.words,
            "head": self.heads,
        }

    def _build_pictures(self) -> None:
        self.panel, self.beside_panel = CapturePanel(), CapturePanel()
        self.both = widgets.Box([self.panel])
        self.both.add_class("dg-both")
        self.map, self.text, self.spikes = self.panel.map, self.panel.text, self.panel.spikes
        self.channels, self.blocks, self.steps = self.panel.channels, self.panel.blocks, self.panel.steps
        self.numbers = text_block("")

    def show_both(self, both: bool) -> None:
        """One capture on the page, or two."""
        self.both.children = [self.panel, self.beside_panel] if both else [self.panel]

    def set_ranges(self, acts: Activations, massive: list[int], channel: int) -> None:
        """Let the controls offer what a capture has, and its massive channels; `channel` is the current one."""
        data = acts.data
        for dropdown, dim in ((self.prompts, "prompt"), (self.seeds, "seed"), (self.branches, "branch")):
            dropdown.options = [(str(v), i) for i, v in enumerate(data[dim].values)]
        self.block_slider.max = data.sizes["site"] - 1
        self.step_slider.max = self.play.max = data.sizes["step"] - 1
        self.channel_field.max = data.sizes["channel"] - 1
        self.token_field.max = data.sizes["token"] - 1
        self.stream_buttons.options = [str(s) for s in data["stream"].values]
        self.offered.options = [(str(c), c) for c in massive]
        self.offered.value = channel if channel in massive else None
        self.offered.layout.display = "" if massive else "none"
        words, heads = words_kept(acts), head_count(acts)
        own = [(f"attention to {word!r}", word) for word in words]
        self.words.options = [("activations", ""), *(own or [("attention to a word ...", NOT_KEPT)])]
        self.heads.options = [("all", -1), *((str(head), head) for head in range(heads))]
        self.heads.layout.display = "" if words else "none"
        self.views.layout.display = self.saving.layout.display = ""
