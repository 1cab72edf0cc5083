"""Keys of payments, messages, shops, maps and monitoring. Each group names the vendor documentation behind it."""

from __future__ import annotations

from typing import Final

from tenantguard.rules.secrets.checks import discord_user, json_inside, mixed
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

_B64 = "A-Za-z0-9+/="
_UUID_REST = UUID.partition("}-")[2]

PAYMENTS: Final[tuple[SecretFormat, ...]] = (
    # vendor documentation: Stripe "API keys", "Restricted API keys", "Webhooks: verify signatures"
    key("STRIPE_SECRET_KEY", "Stripe (or Clerk, Paystack, WorkOS) secret key", "sk_(?:live|test)_", ALNUM, 24, 250),
    key("STRIPE_RESTRICTED_KEY", "Stripe restricted key", "rk_(?:live|test)_", ALNUM, 24, 250),
    key("WEBHOOK_SECRET", "webhook signing secret (Stripe, Svix, Clerk)", "whsec_", _B64, 24, 90, check=mixed),
    # vendor documentation: the "API keys", "Authentication" or "Credentials" page of each
    key("SQUARE_ACCESS_TOKEN", "Square access token", "EAAA", URL_SAFE, 60),
    key("SQUARE_OAUTH_SECRET", "Square OAuth secret", "sq0csp-", URL_SAFE, 43),
    built(
        "BRAINTREE_TOKEN",
        "Braintree access token",
        r"access_token\$(?:production|sandbox)\$[0-9a-z]{8}",
        r"[0-9a-z]{8}\$[0-9a-f]{32}",
    ),
    built(
        "PLAID_ACCESS_TOKEN",
        "Plaid access token",
        "access-(?:sandbox|development|production)-[0-9a-f]{8}-",
        _UUID_REST,
    ),
    built(
        "MERCADO_PAGO_TOKEN",
        "Mercado Pago access token",
        "APP_USR-[0-9]{12,18}-",
        "[0-9]{6}-[0-9a-f]{32}-[0-9]{6,12}",
    ),
    key("MOLLIE_API_KEY", "Mollie key", "(?:live|test)_", ALNUM, 30, check=mixed),
    built("FLUTTERWAVE_KEY", "Flutterwave secret key", "FLWSECK(?:_TEST)?-[0-9a-f]{8}", "[0-9a-f]{24}(?:-X)?"),
    built(
        "PADDLE_API_KEY",
        "Paddle key",
        "pdl_(?:live|sdbx)_apikey_[a-z0-9]{8}",
        "[a-z0-9]{18}_[A-Za-z0-9]{22}_[A-Za-z0-9]{3}",
    ),
    key("EASYPOST_API_KEY", "EasyPost key", "EZ[AT]K", ALNUM, 54),
    key("SHIPPO_TOKEN", "Shippo token", "shippo_(?:live|test)_", HEX, 40),
    key("DUFFEL_TOKEN", "Duffel token", "duffel_(?:live|test)_", URL_SAFE, 43),
    key("LOB_API_KEY", "Lob key", "(?:live|test)_", HEX, 35),
    # vendor documentation: Shopify "Access tokens for custom apps", "About token prefixes"
    key("SHOPIFY_ACCESS_TOKEN", "Shopify access token", "shp(?:at|ca|pa|ua)_", HEX, 32),
    key("SHOPIFY_APP_SECRET", "Shopify app secret", "shpss_", HEX, 32),
)

MESSAGES: Final[tuple[SecretFormat, ...]] = (
    # vendor documentation: Slack "Tokens", "Token rotation", "Sending messages using incoming webhooks"
    built(
        "SLACK_BOT_TOKEN",
        "Slack bot token",
        "xoxb-[0-9]{8}",
        "[0-9]{1,6}-(?:[0-9]{8,14}-)?[A-Za-z0-9]{20,36}",
        alphabet=URL_SAFE,
    ),
    built(
        "SLACK_USER_TOKEN",
        "Slack user or legacy token",
        "xox[acdoprs]-[0-9A-Za-z%]{8}",
        "[A-Za-z0-9%-]{16,240}",
        alphabet=URL_SAFE,
    ),
    built(
        "SLACK_APP_TOKEN",
        "Slack app-level token",
        "xapp-[0-9]-[A-Z0-9]{8}",
        "[A-Z0-9]{1,6}-[0-9]{10,14}-[0-9a-f]{64}",
    ),
    built(
        "SLACK_ROTATING_TOKEN",
        "Slack rotating or configuration token",
        r"xoxe(?:\.xox[bp])?-[0-9]-[A-Za-z0-9]{8}",
        "[A-Za-z0-9]{100,260}",
    ),
    built(
        "SLACK_WEBHOOK",
        "Slack webhook address",
        r"hooks\.slack\.com/(?:services|workflows|triggers)/",
        "[A-Za-z0-9]{8,12}/[A-Za-z0-9]{8,20}/[A-Za-z0-9]{18,32}",
    ),
    # vendor documentation: Discord "Reference: authentication", "Webhook resource"
    marked(
        "DISCORD_BOT_TOKEN",
        "Discord bot token",
        "[MNO][A-Za-z0-9_-]{22,27}",
        28,
        r"\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{8}",
        "[A-Za-z0-9_-]{19,30}",
        alphabet=URL_SAFE,
        check=discord_user,
    ),
    built(
        "DISCORD_WEBHOOK",
        "Discord webhook address",
        "discord(?:app)?\\.com/api/webhooks/[0-9]{8}",
        "[0-9]{9,12}/[A-Za-z0-9_-]{60,70}",
        alphabet=URL_SAFE,
    ),
    # vendor documentation: Telegram "Bot API: authorizing your bot"
    marked(
        "TELEGRAM_BOT_TOKEN",
        "Telegram bot token",
        "[0-9]{8,10}",
        10,
        ":AA[A-Za-z0-9_-]{8}",
        "[A-Za-z0-9_-]{25}",
        alphabet=URL_SAFE,
    ),
    # vendor documentation: Microsoft Teams "Create incoming webhooks"
    built(
        "TEAMS_WEBHOOK",
        "Microsoft Teams webhook address",
        r"webhook\.office\.com/webhookb2/[0-9a-f]{8}-",
        f"{_UUID_REST}@{UUID}/IncomingWebhook/[0-9a-f]{{32}}/{UUID}",
    ),
    # vendor documentation: the "API keys" or "Authentication" page of each
    key("TWILIO_API_KEY", "Twilio API key", "SK", HEX, 32),
    built(
        "SENDGRID_API_KEY",
        "SendGrid key",
        r"SG\.[A-Za-z0-9_-]{16,24}\.[A-Za-z0-9_-]{8}",
        "[A-Za-z0-9_-]{31,42}",
        alphabet=URL_SAFE,
    ),
    key("MAILGUN_API_KEY", "Mailgun key", "key-", HEX, 32),
    marked(
        "MAILGUN_SENDING_KEY",
        "Mailgun sending key",
        "[0-9a-f]{24}",
        24,
        "[0-9a-f]{8}-[0-9a-f]{8}-[0-9a-f]{8}",
        "",
        alphabet="A-Za-z0-9_-",
    ),
    marked("MAILCHIMP_API_KEY", "Mailchimp key", "[0-9a-f]{24}", 24, "[0-9a-f]{8}-us[0-9]", "[0-9]?"),
    key("MAILERSEND_TOKEN", "MailerSend token", r"mlsn\.", HEX, 64),
    built("BREVO_API_KEY", "Brevo key", "x(?:keysib|smtpsib)-[0-9a-f]{8}", "[0-9a-f]{56}-[A-Za-z0-9]{16}"),
    built("RESEND_API_KEY", "Resend key", "re_[A-Za-z0-9]{8}_", "[A-Za-z0-9]{24}"),
    key("FACEBOOK_ACCESS_TOKEN", "Meta access token", "EAA[A-Z]", ALNUM, 90, 300, check=mixed),
    key("TWITTER_BEARER_TOKEN", "X (Twitter) bearer token", "A{20}", "A-Za-z0-9%", 60, 120, check=mixed),
    key("MATRIX_ACCESS_TOKEN", "Matrix access token", "syt_[A-Za-z0-9+/]{2,80}_[A-Za-z]{20}_", ALNUM, 6),
    key("NYLAS_API_KEY", "Nylas key", "nyk_v0_", ALNUM, 60, 70),
    key("ONESIGNAL_API_KEY", "OneSignal key", "os_v2_(?:app|org)_", "a-z2-7", 100, 110),
)

SERVICES: Final[tuple[SecretFormat, ...]] = (
    # vendor documentation: the "API keys", "Access tokens" or "Authentication" page of each
    key(
        "HUBSPOT_TOKEN",
        "HubSpot private app token",
        "pat-(?:na|eu|ap)[0-9]-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-",
        HEX,
        12,
    ),
    key("TYPEFORM_TOKEN", "Typeform token", "tfp_", "A-Za-z0-9_.-", 40, 60),
    key("DROPBOX_TOKEN", "Dropbox short-lived token", r"sl\.(?:u\.)?", URL_SAFE, 130, 1400, check=mixed),
    built(
        "MAPBOX_SECRET_TOKEN",
        "Mapbox secret token",
        r"sk\.eyJ[A-Za-z0-9_-]{8}",
        r"[A-Za-z0-9_-]{30,200}\.[A-Za-z0-9_-]{22}",
        alphabet=URL_SAFE,
        check=json_inside,
    ),
    marked("RAPIDAPI_KEY", "RapidAPI key", "[0-9a-f]{10}", 10, "msh[0-9a-f]{15}p1", "[0-9a-f]{6}jsn[0-9a-f]{12}"),
    marked("DEEPL_API_KEY", "DeepL key of the free API", UUID[: -len("[0-9a-f]{12}")], 24, "[0-9a-f]{12}:fx", ""),
    # vendor documentation: New Relic "API keys", Grafana "Service accounts", "Access policies", Sentry "Auth tokens"
    key("NEW_RELIC_USER_KEY", "New Relic user key", "NRAK-", UPPER, 27),
    key("NEW_RELIC_INSERT_KEY", "New Relic insert key", "NRII-", URL_SAFE, 32),
    marked("NEW_RELIC_LICENSE_KEY", "New Relic licence key", "[0-9a-zA-Z]{36}", 36, "NRAL", ""),
    built("GRAFANA_TOKEN", "Grafana service account token", "glsa_[A-Za-z0-9]{8}", "[A-Za-z0-9]{24}_[0-9a-f]{8}"),
    key("GRAFANA_CLOUD_TOKEN", "Grafana Cloud access policy token", "glc_eyJ", _B64, 40, 400, check=json_inside),
    key("SENTRY_USER_TOKEN", "Sentry user token", "sntryu_", HEX, 64),
    built(
        "SENTRY_ORG_TOKEN",
        "Sentry organisation token",
        "sntrys_eyJ[A-Za-z0-9+/=]{8}",
        "[A-Za-z0-9+/=]{40,400}_[A-Za-z0-9+/]{43}",
        check=json_inside,
    ),
    # vendor documentation: the "API keys" or "Access tokens" page of each
    key("HONEYCOMB_API_KEY", "Honeycomb ingest or configuration key", "hc[abcx][iml]k_", LOWER, 58),
    built("DYNATRACE_TOKEN", "Dynatrace token", r"dt0[a-z][0-9]{2}\.[A-Z0-9]{8}", r"[A-Z0-9]{16}\.[A-Z0-9]{64}"),
    key("POSTHOG_PERSONAL_KEY", "PostHog personal key", "phx_", ALNUM, 43, 60),
    built("AXIOM_TOKEN", "Axiom token", "xa[ap]t-[0-9a-f]{8}-", _UUID_REST),
    key("CHECKLY_API_KEY", "Checkly key", "cu_", HEX, 32),
    key("DATADOG_TOKEN", "Datadog access token", "ddp?at_", URL_SAFE, 32, 80, check=mixed),
)
