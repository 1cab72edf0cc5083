"""Keys of language models and what stands around them. Each group names the vendor documentation behind it."""

from __future__ import annotations

from typing import Final

from tenantguard.rules.secrets.checks import mixed
from tenantguard.rules.secrets.format import (
    ALNUM,
    HEX,
    LOWER,
    UPPER,
    URL_SAFE,
    UUID,
    SecretFormat,
    built,
    key,
    marked,
)

MODELS: Final[tuple[SecretFormat, ...]] = (
    # vendor documentation: OpenAI "API keys", "Project API keys", "Admin API keys"; all hold the base64 of "OpenAI"
    marked("OPENAI_API_KEY", "OpenAI key", r"sk-[A-Za-z0-9_-]{20,140}", 144, "T3BlbkFJ", r"[A-Za-z0-9_-]{20,140}"),
    # vendor documentation: Anthropic "API keys", "Admin API", "Claude Code: authentication"
    key("ANTHROPIC_API_KEY", "Anthropic API key", "sk-ant-api[0-9]{2}-", URL_SAFE, 80, 120),
    key("ANTHROPIC_ADMIN_KEY", "Anthropic admin key", "sk-ant-admin[0-9]{2}-", URL_SAFE, 80, 120),
    key("ANTHROPIC_OAUTH_TOKEN", "Anthropic OAuth token", "sk-ant-o[ar]t[0-9]{2}-", URL_SAFE, 80, 120),
    # vendor documentation: Hugging Face "User access tokens"
    key("HUGGING_FACE_TOKEN", "Hugging Face user token", "hf_", ALNUM, 30, 40),
    key("HUGGING_FACE_ORG_TOKEN", "Hugging Face organisation token", "api_org_", ALNUM, 30, 40),
    # vendor documentation: the "API keys" or "Authentication" page of each
    key("GROQ_API_KEY", "Groq key", "gsk_", ALNUM, 52),
    key("PERPLEXITY_API_KEY", "Perplexity key", "pplx-", ALNUM, 48, 56),
    key("REPLICATE_API_TOKEN", "Replicate token", "r8_", ALNUM, 37),
    key("XAI_API_KEY", "xAI key", "xai-", ALNUM, 70, 90),
    key("OPENROUTER_API_KEY", "OpenRouter key", "sk-or-v1-", HEX, 64),
    key("FIREWORKS_API_KEY", "Fireworks key", "fw_", ALNUM, 22, 40, check=mixed),
    built("LANGSMITH_API_KEY", "LangSmith key", "lsv2_[ps][tk]_[0-9a-f]{8}", "[0-9a-f]{24}_[0-9a-f]{10}"),
    built("LANGFUSE_SECRET_KEY", "Langfuse secret key", "sk-lf-[0-9a-f]{8}-", UUID.partition("-")[2]),
    key("NVIDIA_API_KEY", "NVIDIA NGC or NIM key", "nvapi-", URL_SAFE, 60, 70),
    key("CEREBRAS_API_KEY", "Cerebras key", "csk-", LOWER, 48),
    key("TAVILY_API_KEY", "Tavily key", "tvly-(?:dev-|prod-)?", ALNUM, 32),
    built("PINECONE_API_KEY", "Pinecone key", "pcsk_[A-Za-z0-9]{4,8}_[A-Za-z0-9]{8}", "[A-Za-z0-9]{42,72}"),
    key("ELEVENLABS_API_KEY", "ElevenLabs key", "sk_", HEX, 48),
    key("JINA_API_KEY", "Jina key", "jina_", URL_SAFE, 56, 64),
    key("VOYAGE_API_KEY", "Voyage key", "pa-", URL_SAFE, 43, check=mixed),
    key("TOGETHER_API_KEY", "Together key", "tgp_v1_", URL_SAFE, 43),
    key("LLAMA_CLOUD_API_KEY", "LlamaCloud key", "llx-", ALNUM, 48),
    key("FIRECRAWL_API_KEY", "Firecrawl key", "fc-", HEX, 32),
    key("RUNPOD_API_KEY", "RunPod key", "rpa_", UPPER, 40, 50),
    key("APIFY_API_TOKEN", "Apify token", "apify_api_", ALNUM, 36),
    key("E2B_API_KEY", "E2B key", "e2b_", HEX, 40),
    built("DATABRICKS_TOKEN", "Databricks personal access token", "dapi[0-9a-f]{8}", "[0-9a-f]{24}(?:-[0-9]{1,2})?"),
    # vendor documentation: DeepSeek, Moonshot, Stability "API keys": what imitates OpenAI's first form
    key("SK_API_KEY", "key of an OpenAI-compatible service", "sk-", ALNUM, 32, 64, check=mixed),
)
