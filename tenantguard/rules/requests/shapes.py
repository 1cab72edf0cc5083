"""What each protocol calls the model, the stream and the output cap of a request, and where it says them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from tenantguard.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable


_REMEMBERED_CHARS: Final = 64
"""Names come from callers: a longer one is worked out each time, or 1024 of them would fill the memory."""


def plain(name: str) -> str:
    """The name as a lenient server may read it: ``OPTIONS`` as ``options``, ``maxTokens`` as ``max_tokens``."""
    return _remembered(name) if len(name) <= _REMEMBERED_CHARS else _plain(name)


def _plain(name: str) -> str:
    return name.replace("_", "").casefold()


_remembered = lru_cache(maxsize=1024)(_plain)


def _no_tier(_: dict[str, Any]) -> str | None:
    return None


def _openai_tier(body: dict[str, Any]) -> str | None:
    """``auto``, and no word, mean what the project's settings say, which nobody here knows."""
    tier = body.get("service_tier")
    return tier if isinstance(tier, str) and tier != "auto" else None


def _anthropic_tier(body: dict[str, Any]) -> str | None:
    """Speed has a price of its own; committed capacity (``service_tier``) has none."""
    return "fast" if body.get("speed") == "fast" else "standard"


@dataclass(frozen=True, slots=True)
class Shape:
    """Where a protocol says what. The first of ``caps`` is the one that is written where a request has none.

    ``path`` is what the URL must be; it has the model where that stands in it (``model_in_path``), and the way to
    call it (``call``), of which ``streams`` stream. With none of these a member ``stream`` says it, and
    ``stream_default`` holds without one. ``uncapped``: the protocol has no cap, so that only the route's bounds it.
    ``reports_usage_on_demand``: a stream says what it used where ``stream_options.include_usage`` asks for it.
    ``sensitive`` are the members that count: a spelling that a lenient server may take for one of them is refused.
    ``refused`` are members by which some server of this protocol serves another model than ``model``, or more output
    than ``caps`` say. ``passed_on`` is an object that the server hands to the model as it is, in the model's own
    words: a cap in it may take the place of the one that was read. ``parents`` are the objects inside the body in
    which ``caps`` and ``several`` stand.
    """

    caps: tuple[tuple[str, ...], ...] = ()
    cap_least: int = 1
    several: tuple[str, ...] | None = None
    path: re.Pattern[str] | None = None
    model_in_path: bool = False
    streams: frozenset[str] = frozenset()
    stream_default: bool = False
    uncapped: bool = False
    reports_usage_on_demand: bool = False
    tier: Callable[[dict[str, Any]], str | None] = _no_tier
    sensitive: frozenset[str] = field(default_factory=frozenset)
    refused: frozenset[str] = field(default_factory=frozenset)
    passed_on: str | None = None
    parents: tuple[str, ...] = field(init=False, repr=False, compare=False)
    spellings: dict[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        places = [*self.caps, self.several or ()]
        object.__setattr__(self, "parents", tuple(dict.fromkeys(place[0] for place in places if len(place) > 1)))
        object.__setattr__(self, "spellings", {plain(name): name for name in self.sensitive | self.refused})

    @property
    def bounds_output(self) -> bool:
        """Whether there is output to bound at all."""
        return bool(self.caps) or self.uncapped


_OTHER_MODELS: Final = frozenset({"models", "fallbacks"})
"""OpenRouter's and LiteLLM's lists of further models, and Anthropic's: ``model`` alone has the price."""

_OTHER_CAPS: Final = frozenset({"n_predict", "n_cmpl", "max_new_tokens", "num_predict"})
"""What local servers obey in place of ``max_tokens`` (llama.cpp's ``n_predict``) or of ``n``."""

CAPS: Final = frozenset(
    {"maxtokens", "maxtokenstosample", "maxnewtokens", "maxtokencount", "maxgenlen", "maxcompletiontokens", "n"}
    | {"numresults", "numgenerations", "numpredict", "npredict"}
)
"""What models call their output cap or their number of answers, as ``plain`` reads it."""

SHAPES: Final = {
    "openai-chat": Shape(
        caps=(("max_completion_tokens",), ("max_tokens",)),
        several=("n",),
        reports_usage_on_demand=True,
        tier=_openai_tier,
        sensitive=frozenset(
            {"model", "stream", "stream_options", "n", "max_tokens", "max_completion_tokens", "service_tier"}
        ),
        refused=_OTHER_MODELS | _OTHER_CAPS,
    ),
    "openai-embeddings": Shape(sensitive=frozenset({"model"})),
    # 0 fills the provider's prompt cache and writes nothing
    "anthropic-messages": Shape(
        caps=(("max_tokens",),),
        cap_least=0,
        tier=_anthropic_tier,
        sensitive=frozenset({"model", "stream", "max_tokens", "speed"}),
        refused=_OTHER_MODELS,
    ),
    "openai-responses": Shape(
        caps=(("max_output_tokens",),),
        tier=_openai_tier,
        sensitive=frozenset({"model", "stream", "max_output_tokens", "service_tier"}),
        refused=_OTHER_MODELS,
    ),
    "openai-images": Shape(
        several=("n",),
        uncapped=True,
        sensitive=frozenset({"model", "stream", "n"}),
    ),
    "openai-audio": Shape(uncapped=True, sensitive=frozenset({"model", "stream"})),
    "mistral-chat": Shape(
        caps=(("max_tokens",),),
        several=("n",),
        sensitive=frozenset({"model", "stream", "n", "max_tokens"}),
        refused=_OTHER_MODELS | _OTHER_CAPS | {"max_completion_tokens"},
    ),
    "gemini-generate": Shape(
        caps=(("generationConfig", "maxOutputTokens"),),
        several=("generationConfig", "candidateCount"),
        path=re.compile(r"/models/(?P<model>[^/:]+):(?P<call>generateContent|streamGenerateContent)\Z"),
        model_in_path=True,
        streams=frozenset({"streamGenerateContent"}),
        sensitive=frozenset({"generationConfig", "maxOutputTokens", "candidateCount"}),
    ),
    "bedrock-converse": Shape(
        caps=(("inferenceConfig", "maxTokens"),),
        path=re.compile(r"/model/(?P<model>.+)/(?P<call>converse|converse-stream)\Z"),
        model_in_path=True,
        streams=frozenset({"converse-stream"}),
        sensitive=frozenset({"inferenceConfig", "maxTokens"}),
        passed_on="additionalModelRequestFields",
    ),
    "ollama": Shape(
        caps=(("options", "num_predict"),),
        cap_least=0,
        path=re.compile(r"/api/(?P<call>chat|generate)\Z"),
        stream_default=True,
        sensitive=frozenset({"model", "stream", "options", "num_predict"}),
    ),
    "ollama-embed": Shape(path=re.compile(r"/api/(?P<call>embed)\Z"), sensitive=frozenset({"model"})),
}
"""By the names of usage decoders, :data:`tenantguard.rules.usage.DECODERS`."""


def shape_of(decoder: str) -> Shape:
    """The shape of that decoder's requests; :class:`ConfigurationError` where there is none."""
    try:
        return SHAPES[decoder]
    except KeyError:
        raise ConfigurationError(f"no usage decoder is called {decoder!r}: there are {', '.join(SHAPES)}") from None
