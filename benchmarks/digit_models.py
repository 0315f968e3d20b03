"""The small models that the diffusion part is tested and measured with, all of scikit-learn's digits (8 x 8 pixels).

Images are in [0, 1] here, as pipelines give them with ``output_type="pt"``; the UNets themselves work in [-1, 1].

Two stock diffusers pipelines, saved by ``save_pretrained``: a DDPM and a flow-matching model of the same UNet, and a
classifier whose penultimate layer is a feature space for distances. `train_diffusion.py` made them.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from diffusers import DDPMPipeline
from diffusers.utils import logging
from jaxtyping import Float, Int
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

MODELS = Path(__file__).resolve().parents[1] / "tests" / "models"
DDPM = MODELS / "digits-ddpm"
FLOW = MODELS / "digits-flow"
CLASSIFIER = MODELS / "digits-classifier.safetensors"
SHAPE = (1, 8, 8)
FEATURES = 32


class DigitClassifier(nn.Module):
    """Three convolutions, a hidden layer of 32 (the features), ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 48, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(48 * 4, FEATURES),
            nn.ReLU(),
        )
        self.head = nn.Linear(FEATURES, 10)

    def features(self, images: Float[Tensor, "n 1 8 8"]) -> Float[Tensor, "n 32"]:
        """The penultimate layer, of images in [0, 1]."""
        features: Tensor = self.body(2 * images - 1)
        return features

    def forward(self, images: Float[Tensor, "n 1 8 8"]) -> Float[Tensor, "n 10"]:
        """Logits of the ten classes."""
        logits: Tensor = self.head(self.features(images))
        return logits


@cache
def digits() -> tuple[Float[Tensor, "1797 1 8 8"], Int[Tensor, " 1797"]]:
    """All images, in [0, 1], and which digit each is."""
    found = load_digits()
    return torch.tensor(found.images / 16.0, dtype=torch.float32)[:, None], torch.tensor(found.target)


def digit_classifier() -> DigitClassifier:
    """The trained classifier."""
    model = DigitClassifier()
    model.load_state_dict(load_file(CLASSIFIER))
    return model.eval().requires_grad_(False)


def ddpm_pipeline() -> DDPMPipeline:
    """The trained DDPM: predicts the noise, linear betas, 1,000 steps."""
    return _load(DDPM)


def flow_pipeline() -> DDPMPipeline:
    """The trained flow-matching model: predicts noise - image.

    diffusers has no unconditional pipeline of that name and needs none: `DDPMPipeline` runs any scheduler.
    """
    return _load(FLOW)


def _load(folder: Path) -> DDPMPipeline:
    """Without progress bars: neither of loading nor of every run."""
    logging.disable_progress_bar()
    pipeline = DDPMPipeline.from_pretrained(folder, low_cpu_mem_usage=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
