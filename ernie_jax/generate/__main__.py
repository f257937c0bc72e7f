"""Continues a prompt with a trained model: text, printed as it is made, or a picture, video or speech in a file.

    python -m ernie_jax.generate --workdir=runs/quickstart --prompt="import os" --max_new_tokens=64
    python -m ernie_jax.generate --workdir=runs/quickstart --prompt="import os" --member=4x16x2
    python -m ernie_jax.generate --workdir=runs/imported --prompt-ids=5,17,9 --print-ids
    python -m ernie_jax.generate --workdir=runs/vision --prompt="a large red circle at the top left" --image=out.png
    python -m ernie_jax.generate --workdir=runs/vision --prompt="a small blue ring moving up" --video=out.gif
    python -m ernie_jax.generate --workdir=runs/vision --input=picture.png --video=out.mp4
    python -m ernie_jax.generate --workdir=runs/vision --input=picture.png --prompt="What shape is red?"
    python -m ernie_jax.generate --workdir=runs/vision --input=picture.png
    python -m ernie_jax.generate --workdir=DIR --input=a.png --input=b.png --prompt="first: <picture> then: <picture>"
    python -m ernie_jax.generate --workdir=runs/quickstart --input=picture.png --input=question.wav
    python -m ernie_jax.generate --workdir=runs/vision --prompt="a small red disc." --story=2 --image=out.png
    python -m ernie_jax.generate --workdir=runs/speech --prompt="kamodi sibu" --speech=out.wav --speaker=3
    python -m ernie_jax.generate --workdir=runs/speech --prompt="kamodi sibu" --speech=out.wav --voice=ref.wav
    python -m ernie_jax.generate --workdir=runs/speech --input=in.wav --prompt="Transcribe."

The prompt and its continuation go to standard output, what is run and how fast to standard error. Text
begins with BOS; ids are used as they are given. --input without --image or --video asks for an answer to
the prompt, or for a caption; with --image it is a picture that stands before the prompt or in place of a <picture> of
it, with --video the picture that the video begins with. --input of sound asks for its words; beside a picture it is a
question about it, which is written on one line and answered on the next.
"""

import itertools
import sys
import time
from collections.abc import Sequence

from absl import flags

from ernie_jax import cli
from ernie_jax.elastic.family import full_member, parse_member
from ernie_jax.elastic.slicing import slice_params
from ernie_jax.errors import UserError
from ernie_jax.generate import media_command, speech_command
from ernie_jax.generate.decode import Decoder
from ernie_jax.generate.draw import DrawingConfig, Painter, drawing_of
from ernie_jax.generate.printing import print_pieces, say
from ernie_jax.generate.prompts import STEP, prompt_batch
from ernie_jax.generate.sampling import SamplingConfig, text_banned
from ernie_jax.generate.speak import SpeakingConfig
from ernie_jax.generate.story import tell
from ernie_jax.sequence import MediaRow, SpecialToken
from ernie_jax.speech import sound_shape
from ernie_jax.text.tokenizer import Tokenizer
from ernie_jax.train.model_io import SavedModel, load_model

DEFAULTS, DRAWING, SPEAKING = SamplingConfig(), DrawingConfig(), SpeakingConfig()

_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Directory of a training run or a converted model.", allow_override=True
)
_STEP = flags.DEFINE_integer(
  "step", None, "Checkpoint to read; the newest if not given.", allow_override=True
)
_MEMBER = flags.DEFINE_string(
  "member",
  None,
  "Member of the elastic family, DEPTHxEXPERTSxTOPK; the full model if not given.",
  allow_override=True,
)
_PROMPT = flags.DEFINE_string("prompt", None, "Text to continue.")
_PROMPT_IDS = flags.DEFINE_list("prompt-ids", None, "Token ids to continue, in place of --prompt.")
_PRINT_IDS = flags.DEFINE_boolean("print-ids", False, "Print token ids instead of text.")
_MAX_NEW_TOKENS = flags.DEFINE_integer("max_new_tokens", 128, "Tokens to make at most.")
_TEMPERATURE = flags.DEFINE_float(
  "temperature",
  None,
  f"0 for the likeliest; if not given, {DEFAULTS.temperature} for text, that of the model's evaluation for drawing,"
  f" {SPEAKING.temperature} for speech, 0 for what is told about --input.",
)
_TOP_K = flags.DEFINE_integer("top_k", DEFAULTS.top_k, "Draw among the k likeliest; 0 for all.")
_TOP_P = flags.DEFINE_float("top_p", DEFAULTS.top_p, "Draw among the likeliest of total mass p.")
_SEED = flags.DEFINE_integer("seed", DEFAULTS.seed, "Seed of the draws.")
_STOP_IDS = flags.DEFINE_list(
  "stop-ids", None, "Ids that end the text; EOS and END_OF_TURN if not given and text is made."
)
_CACHE_LENGTH = flags.DEFINE_integer(
  "cache_length", None, "Positions the cache holds; as many as needed if not given."
)
_IMAGE = flags.DEFINE_string("image", "", "PNG file to draw a picture to.")
_VIDEO = flags.DEFINE_string("video", "", "GIF or MP4 file to draw a video to.")
_INPUT = flags.DEFINE_multi_string(
  "input", [], "Picture, video or sound to read; with --image, several."
)
_EVERY = flags.DEFINE_integer("every", 1, "Keep each n-th frame of a video that is read.")
_SPEECH = flags.DEFINE_string("speech", "", "WAV or FLAC file to speak the prompt to.")
_SPEAKER = flags.DEFINE_string("speaker", "", "Speaker of the training data to speak like.")
_VOICE = flags.DEFINE_string("voice", "", "WAV or FLAC file of a voice to speak in.")
_FRAMES = flags.DEFINE_integer(
  "frames", None, "Frames of the video; those of training if not given."
)
_STORY = flags.DEFINE_integer(
  "story", 0, "Continue the prompt as text with up to so many pictures, numbered after --image."
)
_FPS = flags.DEFINE_float("fps", 8.0, "Frames per second of the video.")
_COUNT = flags.DEFINE_integer(
  "count", 1, "How many to draw, each otherwise: out_1.png, out_2.png, .."
)
_GUIDANCE = flags.DEFINE_float(
  "guidance",
  None,
  "How hard a drawing follows its prompt; 1: as it is. If not given, as in the model's evaluation.",
)
_SCALE_RAMP = flags.DEFINE_float(
  "scale_ramp", DRAWING.scale_ramp, "Share of the guidance that comes in from scale to scale."
)
_FRAME_DECAY = flags.DEFINE_float(
  "frame_decay", DRAWING.frame_decay, "Factor on the guidance from frame to frame of a video."
)


def main(_: list[str]) -> None:
  """Runs the command; see the module's docstring."""
  workdir = cli.require(_WORKDIR, example="runs/quickstart")
  request = media_command.MediaRequest(
    image=_IMAGE.value,
    video=_VIDEO.value,
    inputs=tuple(_INPUT.value),
    every=_EVERY.value,
    frames=_FRAMES.value,
    count=_COUNT.value,
    fps=_FPS.value,
    story=_STORY.value,
  )
  if _MAX_NEW_TOKENS.value < 1:
    raise UserError(f"--max_new_tokens must be at least 1, got {_MAX_NEW_TOKENS.value}")
  request.check()
  spoken = speech_command.SpeechRequest(
    speech=_SPEECH.value,
    speaker=_SPEAKER.value,
    voice=_VOICE.value,
    inputs=tuple(_INPUT.value),
  )
  if _PROMPT_IDS.value is not None and (spoken.wanted or request.draws or request.inputs):
    raise UserError("--prompt-ids is for text alone; of media and speech, give --prompt=TEXT")
  if spoken.wanted:
    if request.draws:
      raise UserError("give either --speech, or --image or --video, not both")
    spoken.check(_PROMPT.value)
    _speech(workdir, spoken)
  elif request.draws or request.inputs:
    _media(workdir, request)
  else:
    _text(workdir)


def _speech(workdir: str, request: speech_command.SpeechRequest) -> None:
  """Words as speech, or speech as words."""
  sampling, speaking = _sampling(0.0), _speaking()
  saved = load_model(workdir, step=_STEP.value)
  speech_command.need_speech(saved, workdir, "speech" if request.speech else "input")
  if not request.speech:
    prompt = speech_command.listening_prompt(saved, request.inputs[0])
    saved = _ready(saved, sampling)
    batch = prompt_batch([prompt], None, None, sound=sound_shape(saved.model.audio))
    _tell(saved, batch, sampling)
    return
  words = saved.tokenizer.encode(_PROMPT.value).tolist()
  prompt = speech_command.speaking_prompt(saved, request, words)
  room = speech_command.room_for_speech(saved, prompt)
  saved = _ready(saved, speaking)
  speech_command.write_speech(saved, prompt, request.speech, how=speaking, max_frames=room, say=say)


def _media(workdir: str, request: media_command.MediaRequest) -> None:
  """A drawing, a caption or an answer."""
  sampling = _sampling(DEFAULTS.temperature if request.story else 0.0)
  flag = "image" if request.image else "video" if request.video else "input"
  saved = load_model(workdir, step=_STEP.value)
  media_command.need_vision(saved, workdir, flag)
  drawing = _drawing(saved)
  sounds = any(map(speech_command.is_sound, request.inputs))
  if sounds:
    speech_command.need_speech(saved, workdir, flag)
  if not request.draws:
    prompt = media_command.text_prompt(saved, request, _PROMPT.value)
    data = media_command.media_data(saved)
    shapes = saved.vision.config.shapes(window=data.look_back)
    sound = sound_shape(saved.model.audio) if sounds else None
    batch = prompt_batch([prompt], shapes, data.options(), sound=sound)
    # A question that is heard is written down, then answered.
    _tell(_ready(saved, sampling), batch, sampling, allowed=[SpecialToken.SEP] * sounds)
    return
  if request.story:
    _tell_story(saved, request, sampling, drawing)
    return
  prompt = media_command.drawing_prompt(saved, request, _PROMPT.value or "")
  data, vision = media_command.media_data(saved), saved.vision
  saved, start = _ready(saved, drawing), time.perf_counter()
  made = media_command.draw(
    saved,
    vision,
    data,
    prompt,
    count=request.count,
    how=drawing,
    progress=lambda done, all_: say(f"frame {done} of {all_}, {time.perf_counter() - start:.1f} s"),
  )
  paths = media_command.write(request.image or request.video, made, fps=request.fps)
  say(
    f"wrote {', '.join(map(str, paths))} in {time.perf_counter() - start:.1f} s, compilation included"
  )


def _tell(
  saved: SavedModel, batch: MediaRow, sampling: SamplingConfig, *, allowed: Sequence[int] = ()
) -> None:
  """Prints what the model says about a picture, a video or speech; see `text_banned` for `allowed`."""
  config, tokenizer = None, None
  if saved.vision is not None:
    config, tokenizer = saved.vision.config, saved.vision.tokenizer
  length = batch.row.kind.shape[1] + _MAX_NEW_TOKENS.value
  decoder = Decoder(saved.model, cache_length=length, media=config)
  pieces = decoder.stream_media(
    decoder.load(saved.params, saved.bias, tokenizer),
    batch,
    sampling=sampling,
    max_new_tokens=_MAX_NEW_TOKENS.value,
    stop_ids=[SpecialToken.EOS, SpecialToken.END_OF_TURN],
    banned=text_banned(saved.model.vocab_size, saved.tokenizer.vocab_size, allowed=allowed),
  )
  print_pieces([], pieces, saved.tokenizer)


def _tell_story(saved: SavedModel, request, sampling, drawing: DrawingConfig) -> None:
  """Prints text and writes pictures as they come."""
  prompt = media_command.story_prompt(saved, request, _PROMPT.value or "")
  data, config, tokenizer = media_command.media_data(saved), saved.vision.config, saved.tokenizer
  # Each stretch of text may take that many, and the prompt is rounded up.
  length = saved.config["data"]["row_length"] + (request.story + 1) * _MAX_NEW_TOKENS.value + STEP
  saved = _ready(saved, f"{sampling}; {drawing}")
  painter = Painter(saved.model, config, options=data.options(), window=data.look_back)
  decoder = Decoder(saved.model, cache_length=length, media=config)
  made = tell(
    decoder,
    painter,
    painter.load(saved.params, saved.bias, saved.vision.tokenizer),
    prompt,
    pictures=request.story,
    sampling=sampling,
    drawing=drawing,
    max_new_tokens=_MAX_NEW_TOKENS.value,
    banned=text_banned(saved.model.vocab_size, tokenizer.vocab_size),
  )
  sys.stdout.reconfigure(errors="replace")
  print(_PROMPT.value or "")
  numbers = itertools.count(1)
  for part in made:
    if isinstance(part, list):
      print(tokenizer.decode(part), flush=True)
      continue
    path = media_command.numbered(request.image, next(numbers))
    media_command.write(str(path), part[None], fps=request.fps)
    print(f"[{path}]", flush=True)


def _drawing(saved: SavedModel) -> DrawingConfig:
  """What no flag says is as the model is evaluated."""
  try:
    return drawing_of(
      saved.config,
      temperature=_TEMPERATURE.value,
      guidance=_GUIDANCE.value,
      scale_ramp=_SCALE_RAMP.value,
      frame_decay=_FRAME_DECAY.value,
      seed=_SEED.value,
    )
  except ValueError as e:
    raise UserError(f"--{e}") from e


def _speaking() -> SpeakingConfig:
  warm = _TEMPERATURE.value
  try:
    return SpeakingConfig(
      temperature=SPEAKING.temperature if warm is None else warm, seed=_SEED.value
    )
  except ValueError as e:
    raise UserError(f"--{e}") from e


def _text(workdir: str) -> None:
  """The continuation of text or ids."""
  sampling = _sampling()
  saved = _choose_member(load_model(workdir, step=_STEP.value))
  prompt = _prompt(saved.tokenizer)
  decoder = Decoder(saved.model, cache_length=_cache_length(len(prompt)))
  m, most = saved.model, _MAX_NEW_TOKENS.value
  _introduce(
    saved,
    f"{len(prompt)} prompt tokens, up to {most} new, cache of {decoder.cache_length}; {sampling}",
  )
  start = time.perf_counter()
  weights = decoder.load(saved.params, saved.bias)
  decoder.compile(weights, [prompt], _MAX_NEW_TOKENS.value)
  say(f"compiled in {time.perf_counter() - start:.1f} s")

  banned, stop_ids = None, _ids(_STOP_IDS, m.vocab_size)
  if saved.tokenizer is not None:
    banned = text_banned(m.vocab_size, saved.tokenizer.vocab_size)
    if _STOP_IDS.value is None:
      stop_ids = [SpecialToken.EOS, SpecialToken.END_OF_TURN]
  pieces = decoder.stream(
    weights,
    [prompt],
    sampling=sampling,
    max_new_tokens=_MAX_NEW_TOKENS.value,
    stop_ids=stop_ids,
    banned=banned,
  )
  print_pieces(prompt, pieces, None if _PRINT_IDS.value else saved.tokenizer)


def _sampling(temperature: float = DEFAULTS.temperature) -> SamplingConfig:
  """What the flags say; `temperature` without --temperature: what is there to be told is the likeliest."""
  try:
    warm = temperature if _TEMPERATURE.value is None else _TEMPERATURE.value
    return SamplingConfig(
      temperature=warm, top_k=_TOP_K.value, top_p=_TOP_P.value, seed=_SEED.value
    )
  except ValueError as e:
    raise UserError(f"--{e}") from e  # the message begins with the field, which is the flag


def _ready(saved: SavedModel, how: object) -> SavedModel:
  """The model that --member names, introduced."""
  saved = _choose_member(saved)
  _introduce(saved, how)
  return saved


def _introduce(saved: SavedModel, how: object) -> None:
  """Says who answers, and how."""
  m = saved.model
  say(f"{_WORKDIR.value} at step {saved.step}, {m.depth}x{m.experts}x{m.top_k}; {how}")


def _choose_member(saved: SavedModel) -> SavedModel:
  """The model that --member names, cut out, so that it is as fast as it is small."""
  if _MEMBER.value is None:
    return saved
  member = parse_member(_MEMBER.value, saved.model, key="--member")
  if member == full_member(saved.model):
    return saved
  sliced = slice_params(
    saved.params, saved.bias, saved.usage, member, elastic=saved.elastic, model=saved.model
  )
  saved.params, saved.bias, saved.usage = sliced.params, sliced.bias, sliced.usage
  saved.model = sliced.model
  return saved


def _prompt(tokenizer: Tokenizer | None) -> list[int]:
  if (_PROMPT.value is None) == (_PROMPT_IDS.value is None):
    raise UserError("give either --prompt=TEXT or --prompt-ids=5,17,...")
  if _PROMPT_IDS.value is not None:
    return _ids(_PROMPT_IDS)
  if tokenizer is None:
    raise UserError("--prompt: this model has no tokenizer; give --prompt-ids=5,17,... instead")
  return [int(SpecialToken.BOS), *tokenizer.encode(_PROMPT.value).tolist()]


def _ids(flag: flags.FlagHolder, vocab_size: int | None = None) -> list[int]:
  try:
    ids = [int(word) for word in flag.value or ()]
  except ValueError as e:
    raise UserError(f"--{flag.name}: token ids are whole numbers between commas, like 5,17") from e
  if vocab_size is not None and any(not 0 <= i < vocab_size for i in ids):
    raise UserError(f"--{flag.name}: ids must be between 0 and {vocab_size - 1}")
  return ids


def _cache_length(prompt: int) -> int:
  """--cache_length, or room for all, in steps of 128: attention reads what is allocated."""
  if _CACHE_LENGTH.value is None:
    return -(-max(2, prompt + _MAX_NEW_TOKENS.value) // 128) * 128
  if _CACHE_LENGTH.value < 2:
    raise UserError(f"--cache_length must be at least 2, got {_CACHE_LENGTH.value}")
  return _CACHE_LENGTH.value


if __name__ == "__main__":
  cli.run(main)
