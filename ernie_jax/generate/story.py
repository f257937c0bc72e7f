"""Text with pictures in it: the model writes, draws where it opens a picture, and writes on.

A picture that was drawn is read again from its pixels, as one given in a prompt is; its bits may differ a
little from those that were drawn, as a tokenizer does not return the very bits of what it decoded.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import UInt8

from ernie_jax.generate.blocks import Weights
from ernie_jax.generate.decode import Decoder
from ernie_jax.generate.draw import DrawingConfig, Painter, given_picture
from ernie_jax.generate.prompts import prompt_batch
from ernie_jax.generate.sampling import SamplingConfig
from ernie_jax.sequence import Drawn, Item, SpecialToken, Text


def tell(
  decoder: Decoder,
  painter: Painter,
  weights: Weights,
  prompt: Sequence[Item],
  *,
  pictures: int,
  sampling: SamplingConfig,
  drawing: DrawingConfig,
  max_new_tokens: int,
  banned: np.ndarray,
) -> Iterator[list[int] | UInt8[np.ndarray, "1 H W 3"]]:
  """Continues a prompt with text (token ids) and pictures, in turn, until EOS.

  Args:
    decoder, painter: of the same model; `weights` serve both.
    prompt: items of a document so far.
    pictures: at most so many; after them a picture can no longer be opened.
    sampling, drawing: how text and pictures are drawn; every picture has its own seed.
    max_new_tokens: of each stretch of text.
    banned: ids that text never holds, BOI among them.
  """
  items, side = list(prompt), painter.media.tokenizer.side
  opens, ends = int(SpecialToken.BOI), int(SpecialToken.EOS)
  for number in range(pictures + 1):
    allowed = np.array(banned)
    allowed[opens] = number == pictures
    batch = prompt_batch([items], painter.shapes, painter.options)
    made: list[int] = []
    for piece in decoder.stream_media(
      weights,
      batch,
      sampling=sampling,
      max_new_tokens=max_new_tokens,
      stop_ids=[ends, opens],
      banned=allowed,
    ):
      made += piece.row(0)
    last = made[-1]
    text = made[:-1] if last in (opens, ends) else made
    if text:
      items.append(Text(tuple(text)))
      yield text
    if last != opens:
      return
    canvas = Drawn(np.zeros((1, side, side, 3), np.uint8))
    how = DrawingConfig(**{**vars(drawing), "seed": (drawing.seed + number) % 2**32})
    (picture,) = painter.draw(weights, [[*items, canvas]], how=how)
    items.append(given_picture(picture))
    yield picture
