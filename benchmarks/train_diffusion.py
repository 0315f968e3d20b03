"""Train the small models of `digit_models.py` again: `python -m benchmarks.train_diffusion [classifier ddpm flow]`.

Fixed seeds, one thread, about 4 CPU minutes for each of the two UNets and some seconds for the classifier. Other
versions of torch round differently: figures that were measured with the models then shift.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
from diffusers import DDPMPipeline, DDPMScheduler, FlowMatchEulerDiscreteScheduler, UNet2DModel
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from .digit_models import CLASSIFIER, DDPM, FLOW, DigitClassifier, digits

STEPS = 3000
BATCH = 64
RATE = 2e-3
AVERAGE = 0.995  # of the exponential moving average of the weights
TRAIN_STEPS = 1000
HELD_OUT = 5  # the classifier leaves out every fifth image

Loss = Callable[[nn.Module, Tensor, torch.Generator], Tensor]


def unet() -> UNet2DModel:
    """163,985 parameters."""
    return UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=8,
    )


def train_ddpm() -> None:
    scheduler = DDPMScheduler(num_train_timesteps=TRAIN_STEPS)

    def loss(model: nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(images.shape, generator=generator)
        t = torch.randint(0, TRAIN_STEPS, (len(images),), generator=generator)
        return mse_loss(model(scheduler.add_noise(images, noise, t), t).sample, noise)

    DDPMPipeline(train(loss, seed=0), scheduler).save_pretrained(DDPM)


def train_flow() -> None:
    def loss(model: nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(images.shape, generator=generator)
        sigma = torch.rand(len(images), generator=generator)
        s = sigma[:, None, None, None]
        return mse_loss(model((1 - s) * images + s * noise, TRAIN_STEPS * sigma).sample, noise - images)

    DDPMPipeline(train(loss, seed=1), FlowMatchEulerDiscreteScheduler()).save_pretrained(FLOW)


def train(loss: Loss, seed: int) -> UNet2DModel:
    """The moving average of a UNet's weights over AdamW steps on batches of digits."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    images = 2 * digits()[0] - 1
    model = unet()
    averaged = deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS, pct_start=0.1)
    recent = 0.0
    for step in range(STEPS):
        batch = images[torch.randint(0, len(images), (BATCH,), generator=generator)]
        value = loss(model, batch, generator)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        keep = min(AVERAGE, (step + 1) / (step + 10))
        for mean, weight in zip(averaged.parameters(), model.parameters(), strict=True):
            mean.lerp_(weight.detach(), 1 - keep)
        recent = 0.99 * recent + 0.01 * value.item() if step else value.item()
        if step % 500 == 499:
            print(f"step {step + 1}: loss {recent:.4f}, {time.process_time():.0f} CPU s", flush=True)
    return averaged


def train_classifier() -> None:
    torch.manual_seed(2)
    images, labels = digits()
    held_out = torch.arange(len(images)) % HELD_OUT == 0
    x, y = 2 * images[~held_out] - 1, labels[~held_out]
    model = DigitClassifier()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, 900)
    for _ in range(900):
        batch = torch.randint(0, len(x), (BATCH,))
        # Noise, since it also has to judge images that are not quite digits.
        noisy = x[batch] + 0.2 * torch.rand(BATCH, 1, 1, 1) * torch.randn(BATCH, *x.shape[1:])
        optimizer.zero_grad()
        cross_entropy(model.head(model.body(noisy)), y[batch], label_smoothing=0.02).backward()
        optimizer.step()
        schedule.step()
    right = (model.eval()(images[held_out]).argmax(1) == labels[held_out]).float().mean()
    print(f"classifier: {right:.1%} of held-out images right, {time.process_time():.0f} CPU s")
    save_file({name: weight.detach() for name, weight in model.state_dict().items()}, CLASSIFIER)


TRAINED: dict[str, Callable[[], None]] = {"classifier": train_classifier, "ddpm": train_ddpm, "flow": train_flow}


def main(names: Sequence[str]) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name in names or TRAINED:
        print(f"training {name}")
        TRAINED[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
