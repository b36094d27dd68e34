"""Follows objects from frame to frame by the image features alone, one memory per object.

ultralytics' own video predictor encodes each frame as it goes and adds no object once it runs. Here its single steps are
called instead, with features from the spool: `add_new_prompts`, `propagate_in_video_preflight` and
`_run_single_frame_inference` of SAM2VideoPredictor, which read the features from its attribute `backbone_out`.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from workers.sam.network import Network
from workers.sam.requests import Prompt
from workers.sam.upscale import content_ratio, scaled

_REMEMBERED = ("maskmem_features", "maskmem_pos_enc", "obj_ptr")  # what later frames read of a frame
_POSITIONS = "maskmem_pos_enc"


class Encoder:
    """Turns frames into features, and features back into what the network reads."""

    def __init__(self, network: Network) -> None:
        """Encode one blank frame: it tells the shapes, and warms the network up."""
        self._predictor = network.video
        self._dtype = network.video.torch_dtype if network.video is not None else torch.float32
        self._device = network.device
        with torch.inference_mode():
            side = network.image_size
            blank = self._run(np.zeros((side, side, 3), dtype=np.uint8))
        self._positions = blank["vision_pos_enc"]  # the same for each frame
        self.shapes = [tuple(level.shape) for level in blank["backbone_fpn"]]

    def encode(self, frame: NDArray[np.uint8]) -> list[NDArray[np.float16]]:
        """Return the features of one frame, (H, W, 3) uint8, BGR: three levels, each (1, channels, h, w)."""
        with torch.inference_mode():
            return [level.to(torch.float16).cpu().numpy() for level in self._run(frame)["backbone_fpn"]]

    def decode(self, features: Sequence[NDArray[np.float16]]) -> dict[str, Any]:
        """Return what the network's image encoder would have returned for the frame."""
        levels = [torch.from_numpy(level).to(device=self._device, dtype=self._dtype) for level in features]
        return {"backbone_fpn": levels, "vision_pos_enc": self._positions, "vision_features": levels[-1]}

    def _run(self, frame: NDArray[np.uint8]) -> dict[str, Any]:
        predictor: Any = self._predictor
        output: dict[str, Any] = predictor.model.forward_image(predictor.preprocess([frame]))
        return output


class Tracker:
    """The objects of one video. Prompts first, all of them; then `track` frame by frame, upwards."""

    def __init__(self, network: Network, encoder: Encoder, *, size: tuple[int, int], end: int, check: Callable[[], object]) -> None:
        """Begin with no object.

        size: (height, width) of the video.  end: the frame after the last.  check: called before each object's step, may raise.
        """
        self._predictor: Any = network.video
        self._encoder = encoder
        self._size = size
        self._end = end
        self._check = check
        self._states: dict[int, Any] = {}
        self._first: dict[int, int] = {}
        self._side = network.image_size

    def __enter__(self) -> Self:
        """Return the tracker."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing of this video in the network."""
        self._predictor.backbone_out = None
        self._states.clear()

    @torch.inference_mode()
    def prompt(self, frame: int, prompts: Iterable[Prompt], features: Sequence[NDArray[np.float16]]) -> None:
        """Show objects on a frame."""
        self._predictor.backbone_out = self._encoder.decode(features)
        for prompt in prompts:
            state = self._states.setdefault(prompt.object, self._new_state())
            self._first[prompt.object] = min(frame, self._first.get(prompt.object, frame))
            points, labels, _ = self._predictor._prepare_prompts(  # noqa: SLF001 - see the module's first lines
                (self._side, self._side),
                self._size,
                bboxes=[prompt.box] if prompt.box else None,
                points=[prompt.points] if prompt.points else None,
                labels=[prompt.labels] if prompt.labels else None,
            )
            self._predictor.add_new_prompts(prompt.object, points=points, labels=labels, frame_idx=frame, inference_state=state)
            # At once, while the features of this very frame are loaded: it encodes the mask into the memory with them.
            self._predictor.propagate_in_video_preflight(state)

    @torch.inference_mode()
    def track(self, frame: int, features: Sequence[NDArray[np.float16]]) -> dict[int, NDArray[np.bool_]]:
        """Return the masks, (H, W) bool, of the objects that were shown on this frame or before."""
        self._predictor.backbone_out = self._encoder.decode(features)
        logits = {key: self._step(state, frame) for key, state in self._states.items() if self._first[key] <= frame}
        return self._masks(logits)

    def memory(self) -> dict[str, Any]:
        """Return what `recall` needs to go on at the next frame: plain containers of tensors."""
        return {
            "first": dict(self._first),
            "outputs": {key: {kind: dict(kept) for kind, kept in state["output_dict"].items()} for key, state in self._states.items()},
        }

    def recall(self, memory: dict[str, Any]) -> None:
        """Go on where the tracker stood that gave this memory."""
        self._first = dict(memory["first"])
        for key, outputs in memory["outputs"].items():
            state = self._states[key] = self._new_state()
            state["output_dict"] = {kind: {frame: self._on_device(out) for frame, out in kept.items()} for kind, kept in outputs.items()}
            state["constants"][_POSITIONS] = next(iter(state["output_dict"]["cond_frame_outputs"].values()))[_POSITIONS]

    def _new_state(self) -> Any:
        state = self._predictor._init_state(self._end)  # noqa: SLF001
        state["im"] = None  # the features stand in for it
        return state

    def _step(self, state: Any, frame: int) -> torch.Tensor:
        """Return the mask logits of one object on this frame, (1, 1, h, w), and remember the frame."""
        self._check()
        outputs = state["output_dict"]
        if frame in outputs["cond_frame_outputs"]:
            shown: torch.Tensor = outputs["cond_frame_outputs"][frame]["pred_masks"]
            return shown
        out = self._predictor._run_single_frame_inference(  # noqa: SLF001
            output_dict=outputs,
            frame_idx=frame,
            batch_size=1,
            is_init_cond_frame=False,
            point_inputs=None,
            mask_inputs=None,
            reverse=False,
            run_mem_encoder=True,
            inference_state=state,
        )
        logits: torch.Tensor = out["pred_masks"]
        kept = {name: out[name] for name in _REMEMBERED}
        kept[_POSITIONS] = state["constants"][_POSITIONS]  # one copy for all frames, as the values are the same
        outputs["non_cond_frame_outputs"][frame] = kept
        self._predictor._prune_non_cond_memory(frame, state)  # noqa: SLF001
        return logits

    def _masks(self, logits: dict[int, torch.Tensor]) -> dict[int, NDArray[np.bool_]]:
        """Return the masks in the video's size; where objects overlap, the surer one has the pixel.

        One object's logits at a time are held in full size: ten objects in a 4K video would be 330 MB.
        """
        ratio = content_ratio(self._size, network_side=self._side)
        threshold = self._predictor.model.mask_threshold
        if not self._predictor.non_overlap_masks or len(logits) == 1:
            return {key: (scaled(low, self._size, ratio)[0, 0] > threshold).cpu().numpy() for key, low in logits.items()}
        best: torch.Tensor | None = None
        owner: torch.Tensor | None = None
        for index, low in enumerate(logits.values()):
            full = scaled(low, self._size, ratio)[0, 0]
            if best is None or owner is None:
                best, owner = full, torch.zeros_like(full, dtype=torch.int32)
            else:
                owner[full > best] = index
                best = torch.maximum(best, full)
        if best is None or owner is None:
            return {}
        there = best > threshold
        return {key: ((owner == index) & there).cpu().numpy() for index, key in enumerate(logits)}

    def _on_device(self, out: dict[str, Any]) -> dict[str, Any]:
        device = self._predictor.device
        return {name: [part.to(device) for part in value] if isinstance(value, list) else value.to(device) for name, value in out.items() if value is not None}
