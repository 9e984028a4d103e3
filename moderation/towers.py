"""Towers: pretrained or random networks that turn an image or a text into one vector; torch lives here.

B items, C channels, H x W pixels, T tokens, D embedding width.
"""

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer

from moderation.errors import BundleRejected, PermanentError
from moderation.profiles import TowerSpec

_SPECIAL: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
_OTHER: Final = (
    "0123456789!\"#$%&'()*+,-./:;<=>?@[]_{}~€£¥"
    "äöüßéèêëàâçñíóúãõœåøæğışčžý"
    "абвгдеёжзийклмнопрстуфхцчшщъыьэюя"
    "αβγδεζηθικλμνξοπρσςτυφχψω"
)


class ImageTower(nn.Module):
    """A timm network without its classifier."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return pooled features, float32[B, D]."""
        return cast(Tensor, self.model(images_BCHW))

    def blocks(self) -> list[nn.Module]:
        """Return the tower's blocks, first to last."""
        return _longest_stack(self.model)


class TextTower(nn.Module):
    """A Hugging Face encoder, mean-pooled over its tokens and scaled to length 1."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Return one vector of length 1 per text, float32[B, D]; masked tokens change nothing."""
        hidden_BTD = self.model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
        mask_BT1 = mask_BT.unsqueeze(-1).to(hidden_BTD.dtype)
        mean_BD = (hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1).clamp(min=1)
        return nn.functional.normalize(mean_BD, dim=1)

    def blocks(self) -> list[nn.Module]:
        """Return the tower's blocks, first to last."""
        return _longest_stack(self.model)


@dataclass(frozen=True)
class TextParts:
    """A text tower and the tokenizer that goes with it, as the JSON of the `tokenizers` package."""

    tower: TextTower
    tokenizer: str


def build_image_tower(spec: TowerSpec) -> ImageTower:
    """Return the image tower of `spec` in evaluation mode.

    Raises:
        PermanentError: if the architecture or its weights are not there, or its width is not `spec.dim`.
    """
    model: Any
    create = functools.partial(cast(Any, timm.create_model), spec.name, **spec.options)
    if spec.source == "hub":
        model = _from_hub(spec.name, lambda: create(pretrained=True, num_classes=0))
    elif spec.source == "package":
        model = create(pretrained=False)
        weights = _package_file(spec, "*.pth")
        # The package names its tensors otherwise, in the same order; a wrong order fails on a shape.
        loaded = torch.load(weights, map_location="cpu", weights_only=True).values()
        state = dict(zip(model.state_dict(), loaded, strict=True))
        model.load_state_dict(state)
        model.reset_classifier(0)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.seed)
            model = create(pretrained=False, num_classes=0)
    _check_width(spec, int(model.num_features))
    return ImageTower(model).eval()


def build_text_tower(spec: TowerSpec) -> TextParts:
    """Return the text tower of `spec` in evaluation mode, with its tokenizer.

    Raises:
        PermanentError: if the architecture or its weights are not there, or its width is not `spec.dim`.
    """
    encoders: Any = AutoModel
    if spec.source == "hub":
        model = _from_hub(spec.name, lambda: encoders.from_pretrained(spec.name, **_EAGER))
        tokens = _from_hub(spec.name, lambda: AutoTokenizer.from_pretrained(spec.name))
        tokenizer = tokens.backend_tokenizer.to_str()
    elif spec.source == "package":
        weights = _package_file(spec, "model.safetensors")
        model = encoders.from_config(_text_config(spec), **_EAGER)
        _load_encoder(model, weights)
        tokenizer = (weights.parent / "tokenizer.json").read_text()
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.seed)
            model = encoders.from_config(_text_config(spec), **_EAGER)
        tokenizer = _tiny_tokenizer(tiny_vocabulary()).to_str()
    model = model.float()
    _check_width(spec, int(getattr(model.config, "hidden_size", 0)))
    return TextParts(TextTower(model).eval(), tokenizer)


def load_image_tower(spec: TowerSpec, weights: Path) -> ImageTower:
    """Return an exported image tower in evaluation mode, from its architecture and its safetensors.

    Raises:
        BundleRejected: if the weights are not those of `spec`.
    """
    with torch.random.fork_rng(devices=[]):
        model: Any = cast(Any, timm.create_model)(
            spec.name, pretrained=False, num_classes=0, **spec.options
        )
    return _with_weights(ImageTower(model), spec, weights)


def load_text_tower(spec: TowerSpec, weights: Path) -> TextTower:
    """Return an exported text tower in evaluation mode, from its architecture and its safetensors.

    Raises:
        BundleRejected: if the weights are not those of `spec`.
        PermanentError: if the architecture is described by a package or on a hub that cannot be reached.
    """
    encoders: Any = AutoModel
    with torch.random.fork_rng(devices=[]):
        model = encoders.from_config(_text_config(spec), **_EAGER).float()
    return _with_weights(TextTower(model), spec, weights)


# Scaled-dot-product kernels differ in their last bits by length; the plain graph also exports to fewer nodes.
_EAGER: Final[dict[str, Any]] = {"attn_implementation": "eager"}


def _text_config(spec: TowerSpec) -> Any:
    if spec.source == "hub":
        return _from_hub(spec.name, lambda: AutoConfig.from_pretrained(spec.name))
    if spec.source == "package":
        folder = _package_file(spec, "model.safetensors").parent
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    return AutoConfig.for_model(spec.name, vocab_size=len(tiny_vocabulary()), **spec.options)


_TowerT = TypeVar("_TowerT", bound=nn.Module)


def _with_weights(tower: _TowerT, spec: TowerSpec, weights: Path) -> _TowerT:
    try:
        tower.load_state_dict(load_file(weights))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise BundleRejected(
            f"{weights.parent.name}/{weights.name}: no weights of {spec.name}: {error}; build the bundle again"
        ) from error
    return tower.eval()


def tiny_vocabulary() -> dict[str, int]:
    """Return the vocabulary of the random text tower: letters, pairs of letters and signs, in a fixed order."""
    pairs = [a + b for a in _LETTERS for b in _LETTERS]
    starts = [*_LETTERS, *pairs, *_OTHER]
    words = [*_SPECIAL, *starts, *(f"##{start}" for start in starts)]
    return {word: index for index, word in enumerate(dict.fromkeys(words))}


def _tiny_tokenizer(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def _load_encoder(model: nn.Module, weights: Path) -> None:
    """Load a checkpoint whose names may lack or carry a prefix; the pooler is not used and may be missing."""
    state = load_file(weights)
    own = set(model.state_dict())
    state = {name: tensor for name, tensor in state.items() if name in own}
    missing = {name for name in own - set(state) if not name.startswith("pooler.")}
    if missing:
        raise PermanentError(f"{weights.name} lacks tensors of the encoder: {sorted(missing)[:4]}")
    model.load_state_dict(state, strict=False)


def _package_file(spec: TowerSpec, pattern: str) -> Path:
    """Return the one file of the spec's package that matches; found without importing the package."""
    found = importlib.util.find_spec(spec.package or "")
    folders = list(found.submodule_search_locations or []) if found else []
    files = sorted(path for folder in folders for path in Path(folder).rglob(pattern))
    if len(files) != 1:
        raise PermanentError(
            f"the weights of {spec.name} come with the package {spec.package}, which holds "
            f"{len(files)} files {pattern}; install the extra `train`"
        )
    return files[0]


def _from_hub(name: str, load: Any) -> Any:
    try:
        return load()
    except (OSError, RuntimeError, ValueError) as error:
        raise PermanentError(
            f"{name} could not be loaded from the model hub ({type(error).__name__}): allow access to it, or fetch "
            "the model once where there is access and point HF_HOME at that cache, or train with profile `small`, "
            "whose weights come as packages"
        ) from error


def _check_width(spec: TowerSpec, dim: int) -> None:
    if dim != spec.dim:
        raise PermanentError(
            f"{spec.name} gives vectors of {dim}, its profile says {spec.dim}; correct `dim`"
        )


def _longest_stack(model: nn.Module) -> list[nn.Module]:
    """Return the children of the longest list of modules: the blocks of a network with blocks."""
    stacks = [
        list(module.children())
        for module in model.modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
    ]
    return max(stacks, key=len, default=[])
