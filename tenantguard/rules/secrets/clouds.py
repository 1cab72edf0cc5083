"""Keys of clouds, hosts and stores of secrets. Each group names the vendor documentation it is written from."""

from __future__ import annotations

import re
from typing import Final

from tenantguard.rules.secrets.checks import bech32_checksum, json_inside, mixed
from tenantguard.rules.secrets.format import (
    ALNUM,
    BASE64,
    HEX,
    LOWER,
    UPPER,
    URL_SAFE,
    SecretFormat,
    built,
    key,
    marked,
    named,
)

_B64 = "A-Za-z0-9+/="

CLOUDS: Final[tuple[SecretFormat, ...]] = (
    # vendor documentation: AWS "IAM identifiers: understanding unique ID prefixes", "Managing access keys",
    # "Amazon Bedrock API keys"; 16 characters of base32
    key("AWS_ACCESS_KEY_ID", "AWS access key id", "A(?:KIA|SIA|BIA|CCA)", "A-Z2-7", 16),
    named(
        "AWS_SECRET_ACCESS_KEY",
        "AWS secret access key beside its name",
        r"aws_?secret_?(?:access_?)?key[\"']?\s{0,4}(?::=|=>|[:=])\s{0,4}[\"']?",
        BASE64,
        "{40}",
        flags=re.IGNORECASE,
    ),
    key("AWS_SESSION_TOKEN", "AWS session token", "(?:IQoJb3JpZ2luX2Vj|FwoGZXIvYXdz)", _B64, 100, 2000),
    key("AWS_BEDROCK_API_KEY", "Amazon Bedrock long-term key", "ABSKQmVkcm9ja0FQSUtleS", _B64, 80, 300),
    key("AWS_BEDROCK_SESSION_KEY", "Amazon Bedrock short-term key", "bedrock-api-key-", _B64, 100, 4000),
    # vendor documentation: Google Cloud "API keys", "OAuth 2.0", "Cloud Storage HMAC keys"
    key("GOOGLE_API_KEY", "Google API key", "AIza", URL_SAFE, 35),
    key("GOOGLE_OAUTH_SECRET", "Google OAuth client secret", "GOCSPX-", URL_SAFE, 28),
    key("GOOGLE_ACCESS_TOKEN", "Google OAuth access token", r"ya29\.", URL_SAFE, 20, 2000),
    key("GOOGLE_REFRESH_TOKEN", "Google OAuth refresh token", "1//0", URL_SAFE, 40, 200),
    key("GOOGLE_HMAC_KEY", "Google Cloud Storage HMAC id", "GOOG1E", UPPER, 57),
    # vendor documentation: Microsoft "Azure keys: identifiable secrets" and "Shared access signatures",
    # and of Entra "Register an application: client secrets", of Azure DevOps "Use personal access tokens"
    named("AZURE_STORAGE_KEY", "Azure storage key", "AccountKey=", BASE64, "{86}", end="=="),
    named("AZURE_SHARED_KEY", "Azure shared access key", "SharedAccessKey=", BASE64, "{43}", end="="),
    named("AZURE_SAS_SIGNATURE", "Azure SAS signature", "[?&;]sig=", "A-Za-z0-9%+/", "{40,72}", end="=?"),
    marked(
        "AZURE_PLATFORM_KEY",
        "Azure storage, Batch, Cosmos DB or API Management key",
        "[A-Za-z0-9+/]{76}",
        76,
        r"(?:APIM|ACDb|\+A(?:Ba|MC|St))",
        "[A-Za-z0-9+/]{5}[AQgw]==",
        alphabet=_B64,
    ),
    marked(
        "AZURE_MESSAGING_KEY",
        "Azure IoT, Service Bus, Event Hubs or Relay key",
        "[A-Za-z0-9+/]{33}",
        33,
        r"(?:AIoT|\+A(?:Sb|Eh|Rm))",
        "[A-P][A-Za-z0-9+/]{5}=",
        alphabet=_B64,
    ),
    marked(
        "AZURE_SERVICE_KEY",
        "Azure AI Search or container registry key",
        "[A-Za-z0-9+/]{42}",
        42,
        r"(?:AzSe|\+ACR)",
        "[A-D][A-Za-z0-9+/]{5}",
        alphabet=_B64,
    ),
    marked(
        "AZURE_FUNCTION_KEY",
        "Azure Functions key",
        "[A-Za-z0-9_-]{44}",
        44,
        "AzFu",
        "[A-Za-z0-9_-]{5}[AQgw]==",
        alphabet=_B64,
    ),
    marked(
        "AZURE_CACHE_KEY",
        "Azure Cache for Redis key",
        "[A-Za-z0-9]{33}",
        33,
        "AzCa",
        "[A-P][A-Za-z0-9]{5}=",
        alphabet=_B64,
    ),
    marked("AZURE_DEVOPS_TOKEN", "Azure DevOps token", "[A-Za-z0-9]{76}", 76, "AZDO", "[A-Za-z0-9]{4}"),
    marked(
        "AZURE_CLIENT_SECRET",
        "Microsoft Entra client secret",
        "[A-Za-z0-9_.~-]{3}[0-9]",
        4,
        "Q~",
        "[A-Za-z0-9_.~-]{31,34}",
        alphabet="A-Za-z0-9_.~-",
    ),
    # vendor documentation: the "API tokens", "Personal access tokens" or "Access keys" page of each
    key("DIGITALOCEAN_TOKEN", "DigitalOcean token", "do[opr]_v1_", HEX, 64),
    key("HEROKU_API_KEY", "Heroku token", "HRKU-", URL_SAFE, 36, 64, check=mixed),
    key("CLOUDFLARE_ORIGIN_KEY", "Cloudflare origin CA key", r"v1\.0-[0-9a-f]{24}-", HEX, 146),
    built("FLY_ACCESS_TOKEN", "Fly.io token", "fm[12][a-z]?_[A-Za-z0-9+/]{8}", "[A-Za-z0-9+/]{90,1500}={0,3}"),
    key("VERCEL_TOKEN", "Vercel token", "vc[pikar]_", URL_SAFE, 24, 72, check=mixed),
    key("NETLIFY_TOKEN", "Netlify token", "nfp_", ALNUM, 36),
    key("RENDER_API_KEY", "Render key", "rnd_", ALNUM, 28, 36, check=mixed),
    key("ALIBABA_ACCESS_KEY_ID", "Alibaba Cloud access key id", "LTAI", ALNUM, 12, 20, check=mixed),
    key("TENCENT_SECRET_ID", "Tencent Cloud secret id", "AKID", ALNUM, 32),
    key("YANDEX_API_KEY", "Yandex Cloud key", "AQVN", URL_SAFE, 35, 38),
    key("PULUMI_TOKEN", "Pulumi token", "pul-", HEX, 40),
    marked(
        "TERRAFORM_TOKEN",
        "HCP Terraform token",
        "[A-Za-z0-9]{14}",
        14,
        r"\.atlasv1\.",
        "[A-Za-z0-9_=-]{60,70}",
        alphabet="A-Za-z0-9_=-",
    ),
    key("VAULT_TOKEN", "HashiCorp Vault token", r"hv[sbr]\.", URL_SAFE, 24, 400, check=mixed),
    built(
        "DOPPLER_TOKEN",
        "Doppler token",
        r"dp\.(?:pt|st|ct|sa|scim|audit)\.",
        "(?:[a-z0-9_-]{2,35}\\.)?[A-Za-z0-9]{40,44}",
    ),
    key(
        "ONEPASSWORD_SERVICE_TOKEN", "1Password service account token", "ops_eyJ", _B64, 200, 2000, check=json_inside
    ),
    built(
        "ONEPASSWORD_SECRET_KEY",
        "1Password secret key",
        "A3-[A-Z0-9]{6}-",
        "(?:[A-Z0-9]{11}|[A-Z0-9]{6}-[A-Z0-9]{5})(?:-[A-Z0-9]{5}){3}",
        alphabet="A-Z0-9-",
    ),
    key("PLANETSCALE_SECRET", "PlanetScale token or password", "pscale_(?:tkn|pw|oauth)_", "A-Za-z0-9_.-", 32, 64),
    key("SUPABASE_ACCESS_TOKEN", "Supabase access token", "sbp_", HEX, 40),
    key("SUPABASE_SECRET_KEY", "Supabase secret key", "sb_secret_", URL_SAFE, 30, 60),
    key("NEON_API_KEY", "Neon key", "napi_", LOWER, 50, 80),
    key("MONGODB_ATLAS_SECRET", "MongoDB Atlas service account secret", "mdb_sa_sk_", URL_SAFE, 40, 60),
    key("AIVEN_PASSWORD", "Aiven service password", "AVNS_", URL_SAFE, 19),
    key("CONFLUENT_SECRET", "Confluent API secret", "cflt", BASE64, 60, check=mixed),
    key("TAILSCALE_KEY", "Tailscale key", "tskey-(?:auth|api|client|scim|webhook)-[A-Za-z0-9]{8,24}-", ALNUM, 20, 60),
    key("UPCLOUD_TOKEN", "UpCloud token", "ucat_", UPPER, 26, 40),
    # vendor documentation: age "age-keygen", bech32 with its checksum
    key("AGE_SECRET_KEY", "age secret key", "AGE-SECRET-KEY-1", "AC-HJ-NP-Z02-9", 58, check=bech32_checksum),
)
