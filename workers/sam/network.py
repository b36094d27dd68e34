"""Builds the SAM network from a checkpoint, or untrained, through the parts of ultralytics.

Read in and tried with ultralytics 8.4.190. On CUDA nothing here was ever run: no card was at hand.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from ultralytics.models.sam import build
from ultralytics.models.sam.predict import Predictor, SAM2Predictor, SAM2VideoPredictor

from workers.budget import keep_budget
from workers.sam.requests import SamOptions
from workers.weights import Weights, WeightsError, open_checked, resolve

KNOWN = tuple(build.sam_model_map)
_SIZES = {"t": "t", "tiny": "t", "s": "s", "small": "s", "b": "b", "base": "b", "base_plus": "b", "base+": "b", "l": "l", "large": "l"}
_SAM2_NAME = re.compile(r"(sam2(?:\.1)?)_[tsbl]\.pt")
_META_NAME = re.compile(r"(sam2(?:\.1)?)_hiera_(tiny|small|base_plus|large)\.pt")
_SEED = 20240729  # any number would do; a fixed one makes the untrained network the same in each generation of the worker


class OptionError(Exception):
    """Options that do not go together, or not with this machine. The message says what to change."""


class Network(NamedTuple):
    """A loaded network with the two views on it.

    image: segments one image.  video: tracks; None when this family of networks cannot.
    identity: changes whenever features made by another network or at another size would differ.
    """

    name: str
    weights: Weights
    image: Any
    video: Any | None
    device: torch.device
    image_size: int
    identity: str


def load(options: SamOptions, *, config_dir: Path) -> Network:
    """Return the network that the options name, on its device. Raises WeightsError, OptionError."""
    device = _device(options)
    keep_budget(str(device))
    weights = resolve(
        _wanted(options),
        folder=(config_dir / options.weights_dir).absolute(),
        known=KNOWN,
        allow_download=options.allow_download,
        allow_untrained=options.allow_untrained,
        base=config_dir,
    )
    name = family(weights.path.name if weights.path else _wanted(options))
    model = _built(name)
    if weights.path is None:
        _make_visible(model)
    else:
        _fill(model, weights.path)
    is_sam2 = name.startswith("sam2")
    if is_sam2:
        _tune(model, options)
    elif options.memory_bank_size != SamOptions().memory_bank_size:
        raise OptionError(
            f"memory_bank_size = {options.memory_bank_size} means nothing to {name}, which cannot follow a video. Remove it, or name SAM2 weights."
        )
    image = _predictor(SAM2Predictor if is_sam2 else Predictor, model, options=options, device=device)
    video = _predictor(SAM2VideoPredictor, model, options=options, device=device) if is_sam2 else None
    if video is not None:
        video.non_overlap_masks = not options.disable_postproc
    identity = f"{name} {_fingerprint(weights)} {options.image_size} {'fp16' if options.quantize else 'fp32'} torch {torch.__version__}"
    return Network(name=name, weights=weights, image=image, video=video, device=device, image_size=options.image_size, identity=identity)


def family(file_name: str) -> str:
    """Return the known name that a file's name ends with (`my_sam2.1_t.pt`, `sam2.1_hiera_tiny.pt`): it says which network to build.

    Raises WeightsError.
    """
    meta = _META_NAME.search(file_name)
    if meta:
        return f"{meta[1]}_{_SIZES[meta[2]]}.pt"
    fits = [name for name in KNOWN if file_name.endswith(name)]
    if not fits:
        message = (
            f'Weights refused: the name "{file_name}" does not say which network they belong to. '
            f"Rename the file so that it ends with one of {', '.join(KNOWN)}."
        )
        raise WeightsError(message)
    return max(fits, key=len)


def _wanted(options: SamOptions) -> str:
    """Return the option weights with model_size worked in. Raises OptionError."""
    if not options.model_size:
        return options.weights or "sam2.1_t.pt"
    size = _SIZES.get(options.model_size)
    if size is None:
        raise OptionError(f'model_size = "{options.model_size}" is unknown. Expected one of {", ".join(_SIZES)}.')
    if not options.weights:
        return f"sam2.1_{size}.pt"
    known = _SAM2_NAME.fullmatch(options.weights)
    if known:
        return f"{known[1]}_{size}.pt"
    if options.weights.endswith(f"_{size}.pt"):
        return options.weights
    message = (
        f'model_size = "{options.model_size}" does not fit weights = "{options.weights}", which names a file of its own. '
        "Remove model_size, or let weights be empty or a SAM2 name such as sam2.1_t.pt."
    )
    raise OptionError(message)


def _device(options: SamOptions) -> torch.device:
    """Return the device of the options. Raises OptionError."""
    cuda = torch.cuda.is_available()
    name = ("cuda" if cuda else "cpu") if options.device == "auto" else options.device
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise OptionError(f'device = "{options.device}" is unknown. Expected auto, cpu, cuda, or cuda:0, cuda:1 and so on.')
    if name != "cpu" and not cuda:
        raise OptionError(f'device = "{options.device}" was asked for, and torch {torch.__version__} sees no CUDA device here. Use device = "auto" or "cpu".')
    if options.quantize and name == "cpu":
        raise OptionError("quantize = true means half precision, which works on CUDA only, and this worker runs on the CPU. Set quantize = false.")
    return torch.device("cuda:0" if name == "cuda" else name)


def _built(name: str) -> Any:
    """Return the network of a known name, with random weights.

    Only the bare name is handed to the builder: it looks for "sam2.1" in all of a path, so a folder's name could change
    the network. The weights are filled in by `_fill`, because the builder would unpickle whatever is in the file.
    """
    if not callable(getattr(build, "_load_checkpoint", None)):
        raise WeightsError("This version of ultralytics builds SAM in a way that the worker does not know. Install ultralytics 8.4 again.")
    with _without(build, "_load_checkpoint"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        builder: Callable[[str], Any] = build.sam_model_map[name]
        return builder(name)


@contextmanager
def _without(module: Any, loader: str) -> Iterator[None]:
    """Let the module's loader leave the network as it is, for a moment."""
    original: Callable[..., Any] = getattr(module, loader)
    setattr(module, loader, lambda model, _checkpoint: model)
    try:
        yield
    finally:
        setattr(module, loader, original)


def _fill(model: Any, path: Path) -> None:
    """Load the checkpoint, either `{"model": tensors}` or the bare tensors, into the network. Raises WeightsError."""
    checkpoint = open_checked(path)
    nested = checkpoint.get("model")
    tensors = nested if isinstance(nested, dict) else checkpoint
    try:
        model.load_state_dict(tensors)
    except (RuntimeError, TypeError, AttributeError) as error:
        wanted = model.state_dict()
        missing, extra = len(wanted.keys() - tensors.keys()), len(tensors.keys() - wanted.keys())
        message = (
            f"Weights refused: {path} does not fit the network that its name stands for: {missing} of {len(wanted)} tensors are missing, "
            f"{extra} are not known{'' if missing or extra else ', some have another shape'}. Check that the file is what its name says."
        )
        raise WeightsError(message) from error


def _make_visible(model: Any) -> None:
    """Let an untrained network say that every object is there: a random "not there" would leave most masks empty."""
    head = getattr(getattr(model, "sam_mask_decoder", None), "pred_obj_score_head", None)
    if head is not None:
        torch.nn.init.zeros_(head.layers[-1].weight)
        torch.nn.init.constant_(head.layers[-1].bias, 10.0)  # what the decoder itself uses where it has no such head


def _tune(model: Any, options: SamOptions) -> None:
    """Set what the options say of the tracker."""
    model.set_binarize(not options.disable_postproc)
    model.sam_mask_decoder.dynamic_multimask_via_stability = not options.disable_postproc
    # The last row stands for the prompted frame, the one before it for the frame just seen, and so on backwards: a
    # smaller bank must keep the last rows, or each remembered frame would be taken for an older one.
    bank = options.memory_bank_size
    model.maskmem_tpos_enc = torch.nn.Parameter(model.maskmem_tpos_enc.detach()[-bank:].clone())
    model.num_maskmem = bank


def _predictor(kind: Any, model: Any, *, options: SamOptions, device: torch.device) -> Any:
    """Return ultralytics' predictor around the network, ready without a source."""
    overrides = {
        "model": "sam.pt",
        "imgsz": options.image_size,
        "device": str(device),
        "quantize": 16 if options.quantize else None,
        "conf": 0.0,
        "verbose": False,
        "save": False,
    }
    predictor = kind(overrides=overrides)
    predictor.setup_model(model, verbose=False)
    predictor.model.requires_grad_(requires_grad=False)
    predictor.imgsz = [options.image_size] * 2
    predictor.model.set_imgsz(predictor.imgsz)
    predictor._bb_feat_sizes = [[int(side / (predictor.stride * part)) for side in predictor.imgsz] for part in (1 / 4, 1 / 2, 1)]  # noqa: SLF001 - only setup_source() sets it, and that needs a source
    return predictor


def _fingerprint(weights: Weights) -> str:
    """Return what tells these weights from others."""
    if weights.path is None:
        return f"untrained {_SEED}"
    facts = weights.path.stat()
    return f"{weights.path} {facts.st_size} {facts.st_mtime_ns}"
