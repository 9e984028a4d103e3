"""The towers of a bundle in torch, in bf16 on a GPU: a plug-in that serving loads by name, only when asked for it.

B items.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch

from moderation.engines.engine import Array, EngineName
from moderation.errors import PermanentError
from moderation.profiles import Profile
from moderation.reading import IMAGE_FOLDER
from moderation.towers import load_image_tower, load_text_tower

DEVICE: Final = "cuda"
_OUTPUT: Final = "embedding_BD"


class TorchEngine:
    """One tower in torch.

    Args:
        tower: in evaluation mode; its inputs are taken in the order in which they are given.
        device: where it computes; `cpu` gives the same roundings class by class and is for tests.

    Raises:
        PermanentError: if there is no such device.
    """

    name: EngineName = "torch-cuda"

    def __init__(self, tower: torch.nn.Module, device: str = DEVICE) -> None:
        require_device(device)
        self._device = device
        self._tower = tower.to(device, torch.bfloat16).eval()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the tower's embeddings, float32[B, D], by the name that its graph gives them."""
        with torch.inference_mode():
            found_BD = self._tower(*(self._moved(array) for array in inputs.values()))
        return {_OUTPUT: found_BD.float().cpu().numpy()}

    def _moved(self, array: Array) -> torch.Tensor:
        tensor = torch.from_numpy(array).to(self._device, non_blocking=True)
        return tensor.bfloat16() if tensor.is_floating_point() else tensor


def open_tower(folder: Path, profile: Profile, device: str = DEVICE) -> TorchEngine:
    """Return the engine of a tower's folder, from its weights and the architecture that the profile names.

    Raises:
        PermanentError: if there is no such device, or the architecture cannot be had.
        BundleRejected: if the weights are not those of the profile.
    """
    weights = folder / "weights.safetensors"
    if folder.name == IMAGE_FOLDER:
        return TorchEngine(load_image_tower(profile.image_tower, weights), device)
    return TorchEngine(load_text_tower(profile.text_tower, weights), device)


def require_device(device: str) -> None:
    """Refuse a device that is not there.

    Raises:
        PermanentError: saying what to do.
    """
    if device == DEVICE and not torch.cuda.is_available():
        raise PermanentError(
            "engine torch-cuda needs a CUDA device, and torch finds none; run it on a GPU node with its driver, or use "
            "engine openvino-bf16 or onnxruntime"
        )


def machine(device: str = DEVICE) -> str:
    """Return the kind of device: what chooses the kernels, and so the roundings."""
    return str(torch.cuda.get_device_name()) if device == DEVICE else device


def library() -> str:
    """Return the version that computes."""
    return f"torch {torch.__version__}"
