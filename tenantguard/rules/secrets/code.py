"""Tokens of code hosts, registries, builds and trackers. Each group names the vendor documentation behind it."""

from __future__ import annotations

from typing import Final

from tenantguard.rules.secrets.checks import decodes, github_checksum, mixed
from tenantguard.rules.secrets.format import ALNUM, BASE64, HEX, LOWER, URL_SAFE, UUID, SecretFormat, built, key

CODE: Final[tuple[SecretFormat, ...]] = (
    # vendor documentation: GitHub "GitHub's token formats", "Behind GitHub's new authentication token formats"
    key("GITHUB_TOKEN", "GitHub personal access token", "ghp_", ALNUM, 36, 251, check=github_checksum),
    key("GITHUB_OAUTH_TOKEN", "GitHub OAuth token", "gho_", ALNUM, 36, 251, check=github_checksum),
    key("GITHUB_APP_TOKEN", "GitHub App token", "gh[us]_", ALNUM, 36, 251, check=github_checksum),
    key("GITHUB_REFRESH_TOKEN", "GitHub App refresh token", "ghr_", ALNUM, 36, 251, check=github_checksum),
    built(
        "GITHUB_FINE_GRAINED_TOKEN",
        "GitHub fine-grained personal access token",
        "github_pat_[A-Za-z0-9]{8}",
        "[A-Za-z0-9]{14}_[A-Za-z0-9]{59}",
    ),
    # vendor documentation: GitLab "Token overview: token prefixes"; newer ones end with length and checksum
    key("GITLAB_TOKEN", "GitLab personal access token", "glpat-", "A-Za-z0-9_.-", 20, 240),
    key("GITLAB_DEPLOY_TOKEN", "GitLab deploy token", "gldt-", "A-Za-z0-9_.-", 20, 240),
    key("GITLAB_RUNNER_TOKEN", "GitLab runner token", "(?:glrt-|glrtr-|GR1348941)", "A-Za-z0-9_.-", 20, 240),
    key("GITLAB_CI_TOKEN", "GitLab job or trigger token", "gl(?:cbt|ptt)-", "A-Za-z0-9_.-", 20, 240),
    key("GITLAB_AGENT_TOKEN", "GitLab agent for Kubernetes token", "glagent-", "A-Za-z0-9_.-", 40, 240),
    key("GITLAB_FEED_TOKEN", "GitLab feed, mail or SCIM token", "gl(?:ft|imt|soat)-", "A-Za-z0-9_.-", 20, 240),
    key("GITLAB_OAUTH_SECRET", "GitLab OAuth application secret", "gloas-", URL_SAFE, 64),
    # vendor documentation: Atlassian "Manage API tokens", Bitbucket "App passwords"; Trello "Authorization"
    key("ATLASSIAN_API_TOKEN", "Atlassian API token", "ATATT3[A-Za-z0-9]{4}", "A-Za-z0-9_=-", 160, 240),
    key("BITBUCKET_ACCESS_TOKEN", "Bitbucket access token", "ATCTT3[A-Za-z0-9]{4}", "A-Za-z0-9_=-", 160, 240),
    key("BITBUCKET_APP_PASSWORD", "Bitbucket app password", "ATBB", ALNUM, 32),
    key("TRELLO_TOKEN", "Trello token", "ATTA", HEX, 72),
    # vendor documentation: npm "About access tokens", GitHub changelog "npm has a new access token format"
    key("NPM_TOKEN", "npm token", "npm_", ALNUM, 36, check=github_checksum),
    # vendor documentation: PyPI "API tokens", pypitoken "Token format": a macaroon that begins with its location
    key("PYPI_TOKEN", "PyPI token", "pypi-AgEIcHlwaS5vcmc", URL_SAFE, 80, 800, check=decodes),
    key("TESTPYPI_TOKEN", "TestPyPI token", "pypi-AgENdGVzdC5weXBpLm9yZw", URL_SAFE, 80, 800, check=decodes),
    # vendor documentation: the "API tokens", "API keys" or "Access tokens" page of each
    key("RUBYGEMS_API_KEY", "RubyGems key", "rubygems_", HEX, 48),
    key("CRATES_TOKEN", "Cargo registry token", "cio", ALNUM, 32, check=mixed),
    key("NUGET_API_KEY", "NuGet key", "oy2", LOWER, 43, check=mixed),
    key("DOCKER_TOKEN", "Docker personal or organisation token", "dckr_[po]at_", URL_SAFE, 27, 40),
    key("JFROG_API_KEY", "JFrog Artifactory key", "AKCp", ALNUM, 69),
    key("JFROG_REFERENCE_TOKEN", "JFrog reference token", "cmVmdGtuOj", ALNUM, 54),
    key("CLOJARS_TOKEN", "Clojars deploy token", "CLOJARS_", LOWER, 60),
    built("CIRCLECI_TOKEN", "CircleCI token", "CCI(?:PAT|PRJ)_[A-Za-z0-9]{8}", "[A-Za-z0-9]{8,20}_[0-9a-f]{40}"),
    key("BUILDKITE_TOKEN", "Buildkite API token", "bkua_", HEX, 40),
    key("SONAR_TOKEN", "SonarQube token", "sq[uap]_", HEX, 40),
    key("SOURCEGRAPH_TOKEN", "Sourcegraph token", "sgp_(?:(?:[0-9a-f]{16}|local)_)?", HEX, 40),
    built("POSTMAN_API_KEY", "Postman key", "PMAK-[0-9a-f]{8}", "[0-9a-f]{16}-[0-9a-f]{34}"),
    key("README_API_KEY", "ReadMe key", "rdme_", LOWER, 70),
    key("LINEAR_API_KEY", "Linear key", "lin_api_", ALNUM, 40),
    key("LINEAR_OAUTH_TOKEN", "Linear OAuth token", "lin_oauth_", HEX, 64),
    key("FIGMA_TOKEN", "Figma personal access token", "fig[dou]_", URL_SAFE, 40, 60),
    built("NOTION_TOKEN", "Notion token", "ntn_[0-9]{8}", "[0-9]{3}[A-Za-z0-9]{35}"),
    built("AIRTABLE_TOKEN", "Airtable personal access token", r"pat[A-Za-z0-9]{14}\.[0-9a-f]{8}", "[0-9a-f]{56}"),
    built("CLICKUP_TOKEN", "ClickUp personal token", "pk_[0-9]{6,9}_[A-Z0-9]{8}", "[A-Z0-9]{24}"),
    built("ASANA_TOKEN", "Asana personal access token", "[12]/[0-9]{16}", "(?:/[0-9]{16})?:[0-9a-f]{32}"),
    key("PREFECT_API_KEY", "Prefect key", "pn[ub]_", ALNUM, 36),
    key("DENO_TOKEN", "Deno Deploy token", "dd[po]_", ALNUM, 36),
    key("CONTENTFUL_TOKEN", "Contentful personal access token", "CFPAT-", URL_SAFE, 43),
    key("FRAMEIO_TOKEN", "Frame.io token", "fio-u-", "A-Za-z0-9_=-", 64),
    key("TRIGGER_DEV_KEY", "Trigger.dev secret key", "tr_(?:dev|prod|stg)_", ALNUM, 20, 28, check=mixed),
    key("INNGEST_SIGNING_KEY", "Inngest signing key", "signkey-(?:prod|test|branch)-", HEX, 64),
    built("LAUNCHDARKLY_KEY", "LaunchDarkly SDK or API key", "(?:sdk|api)-[0-9a-f]{8}-", UUID.partition("}-")[2]),
    key("INTERCOM_TOKEN", "Intercom access token", "dG9rO", BASE64, 54, check=mixed),
)
