"""Random vision transformers of transformers, with weights and norms far from their initial values.

Run as a program (`python tests/convert/vit_twin.py`, with torch and transformers 5.23), it writes the golden
files that keep the comparison alive where neither is installed.
"""

import json
import pathlib
import tempfile

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file

GOLDENS = pathlib.Path(__file__).parent / "goldens"

SMALL = dict(
  hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, image_size=16,
  patch_size=4,
)  # fmt: skip
SHAPES = {
  "vit": ("ViTModel", SMALL),
  "vit-oblong": ("ViTModel", SMALL | dict(image_size=[8, 24], qkv_bias=False, num_hidden_layers=1)),
  "vit-tanh": ("ViTModel", SMALL | dict(hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6)),
  "classifier": ("ViTForImageClassification", SMALL | dict(num_labels=5, num_attention_heads=1)),
  "clip": ("CLIPVisionModel", SMALL),
  "clip-gelu": ("CLIPVisionModel", SMALL | dict(hidden_act="gelu", patch_size=8)),
  "projected": ("CLIPVisionModelWithProjection", SMALL | dict(projection_dim=7)),
}
RECORDED = {  # golden file: the shape, and what makes its pixels
  "vit": ("vit", "ViTImageProcessorPil"),
  "clip_vision": ("projected", "CLIPImageProcessorPil"),
}
SQUARE = ["vit", "clip", "clip-gelu"]  # transformers interpolates positions of square grids only


def make(name: str):
  """A model in evaluation mode."""
  architecture, sizes = SHAPES[name]
  config = transformers.CLIPVisionConfig if "CLIP" in architecture else transformers.ViTConfig
  return scatter(getattr(transformers, architecture)(config(**sizes)))


def scatter(model):
  """The model with random weights that no norm or bias hides."""
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for tensor in model.parameters():
      spread = 1.5 / tensor[0].numel() ** 0.5 if tensor.ndim > 1 else 0.3
      centre = 1.0 if tensor.ndim == 1 and bool((tensor == 1).all()) else 0.0
      tensor.copy_(centre + spread * torch.randn(tensor.shape, generator=generator))
  return model.eval()


def answer(model, pixels: np.ndarray, **options) -> dict[str, np.ndarray]:
  """Its outputs for normalised pixels [B, height, width, 3], by name."""
  with torch.no_grad():
    out = model(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), **options)
  return {name: value.numpy() for name, value in out.items()}


def write_golden(name: str) -> None:
  """A tower with its tensors on disk, two pictures, and what transformers sees in them from pixels on."""
  shape, processor = RECORDED[name]
  model = make(shape)
  with tempfile.TemporaryDirectory() as directory:
    model.save_pretrained(directory)
    config = json.loads((pathlib.Path(directory) / "config.json").read_text())
    tensors = load_file(pathlib.Path(directory) / "model.safetensors")
  side = SMALL["image_size"]
  pictures = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
  processor = getattr(transformers, processor)(do_resize=False, do_center_crop=False)
  pixels = processor(list(pictures), return_tensors="np")["pixel_values"]
  answers = answer(model, np.asarray(pixels).transpose(0, 2, 3, 1))
  np.savez_compressed(
    GOLDENS / f"{name}.npz",
    config=json.dumps(config),
    pictures=pictures,
    mean=np.array(processor.image_mean),
    std=np.array(processor.image_std),
    **{f"answer:{key}": value for key, value in answers.items()},
    **{f"tensor:{key}": value for key, value in tensors.items()},
  )


if __name__ == "__main__":
  for recorded in RECORDED:
    write_golden(recorded)
