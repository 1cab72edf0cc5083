"""Which detector a policy gets, and what secrets and kept entities do to what overlaps with them."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from random import Random
from threading import Barrier
from typing import Any

import pytest

from tenantguard.adapters.pii import detectors
from tenantguard.adapters.pii.cascade import CascadeDetector
from tenantguard.adapters.pii.detectors import detector_for
from tenantguard.adapters.pii.presidio import PresidioDetector
from tenantguard.errors import ConfigurationError
from tenantguard.model.redact_section import Direction, Find, Kept, Operator, OperatorKind, Parity, SecretAction
from tenantguard.rules.placeholders import Vault
from tenantguard.rules.redaction.plan import Plan
from tenantguard.rules.redaction.text.hold import TextStream, join
from tenantguard.rules.redaction.text.operators import TenantKeys
from tenantguard.rules.redaction.text.rule import ResponseScrub, SecretFoundError, apply, text_edits

KEEPS_URLS = (("URL", Operator(OperatorKind.KEEP)),)
SECRET = "s3cr3tpw9"
DATABASE = f"see postgres://ann:{SECRET}@db.example.com/x here"
KNOWN = (("db", "hunter2-hunter2"),)
held = cache(detector_for)


def scrub(direction: Direction) -> ResponseScrub:
    plan = Plan(direction, {}, 1000)
    detector = plan.around(held(plan.find).bounded())
    return ResponseScrub(
        detector, Vault(b"k" * 32), restore=False, replacing=plan.replacing(TenantKeys.of(b"t" * 32))
    )


def become(text: str, direction: Direction) -> str:
    return apply(text, text_edits(scrub(direction), text))


@pytest.mark.parametrize("parity", list(Parity))
@pytest.mark.parametrize("kind", [OperatorKind.KEEP, OperatorKind.MASK])
def test_a_secret_in_an_address_goes_whatever_becomes_of_the_address(parity: Parity, kind: OperatorKind) -> None:
    operator = Operator(kind, count=4) if kind is OperatorKind.MASK else Operator(kind)
    operators = (("URL", operator), ("EMAIL_ADDRESS", operator))
    assert SECRET not in become(DATABASE, Direction(Find(parity=parity), operators))


@pytest.mark.parametrize("parity", list(Parity))
def test_a_secret_in_an_address_is_refused(parity: Parity) -> None:
    for operators in ((), KEEPS_URLS, (("*", Operator(OperatorKind.KEEP)),)):
        direction = Direction(Find(parity=parity), operators, secrets=SecretAction.REFUSE)
        with pytest.raises(SecretFoundError) as found:
            become(DATABASE, direction)
        assert found.value.kind == "URL_PASSWORD"


@pytest.mark.parametrize("parity", list(Parity))
@pytest.mark.parametrize(
    "value", ["ann@example.com", "4111111111111111", "856-45-6789", "+14155552671", "DE89370400440532013000"]
)
def test_a_kept_address_hides_nothing_that_stands_in_it(parity: Parity, value: str) -> None:
    text = f"go to https://shop.example.com/orders?of={value}&page=2 now"
    assert "<URL" in become(text, Direction(Find(parity=parity)))
    kept = become(text, Direction(Find(parity=parity), KEEPS_URLS))
    assert value not in kept
    assert kept.startswith("go to https://")
    assert "<URL" not in kept


def test_what_is_kept_hides_nothing_in_pieces_either() -> None:
    direction = Direction(operators=KEEPS_URLS)
    values = ["ann@example.com", "4111111111111111", "+14155552671", "x"]
    for seed in range(60):
        rng = Random(seed)
        addresses = [
            f"https://u:{SECRET}@a.example.com/{rng.choice(values)}?q={rng.choice(values)}" for _ in range(4)
        ]
        text = " and ".join([*addresses, rng.choice(values), DATABASE])
        rule = scrub(direction)
        stream = TextStream(rule)
        at, said = 0, ""
        while at < len(text):
            size = rng.randint(1, 20)
            said += join(stream.feed(text[at : at + size]))
            at += size
        assert said + join(stream.finish()) == become(text, direction)


def test_what_differs_in_what_is_kept_alone_is_built_once_for_as_long_as_it_is_used() -> None:
    find = Find(entities=("UUID", "URL"), threshold=0.31)
    first = detector_for(find)
    kept = detector_for(Find(entities=("UUID", "URL"), threshold=0.31, kept=Kept(frozenset({"URL"}))))
    assert isinstance(first, CascadeDetector)
    assert isinstance(kept, CascadeDetector)
    assert kept._scanner is first._scanner
    assert detector_for(find) is first
    held = len(detectors._built)
    del first, kept
    gc.collect()
    assert len(detectors._built) == held - 1


def test_threads_that_ask_for_one_detector_at_once_build_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Find] = []
    real = detectors._build
    barrier = Barrier(4)

    def build(find: Find, fast: bool | None) -> Any:  # noqa: FBT001
        built.append(find)
        return real(find, fast)

    def ask(_: int) -> object:
        barrier.wait(10)
        return detector_for(Find(entities=("UUID",), threshold=0.32))

    monkeypatch.setattr(detectors, "_build", build)
    with ThreadPoolExecutor(4) as pool:
        made = {*pool.map(ask, range(4))}
    assert (len(built), len(made)) == (1, 1)


def test_without_entropy_formats_and_known_values_are_found_and_random_keys_are_not() -> None:
    """S-64."""
    token, key = "glpat-" + "a1B2c3D4e5F6g7H8i9J0", "q7Vw2Zk9Tn4Xb8Lr3Jd6Hs1Gf5Mc0PyKeRu"
    text = f"{token} or {key} or hunter2-hunter2"

    def found(**terms: Any) -> set[str]:
        find = Direction(Find(entities=("UUID",), known=KNOWN, **terms)).find
        return {one.entity for one in detector_for(find).detect(text)}

    assert found() == {"GITLAB_TOKEN", "RANDOM_KEY", "KNOWN_DB"}
    assert found(entropy=False) == {"GITLAB_TOKEN", "KNOWN_DB"}
    assert found(entropy=False, parity=Parity.PRESIDIO) == {"GITLAB_TOKEN", "KNOWN_DB"}


def test_known_values_where_no_secrets_are_looked_for_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="known secrets"):
        detector_for(Find(known=KNOWN))


@pytest.mark.parametrize("secrets", [False, True])
def test_a_policy_gets_the_engine_that_it_asks_for(secrets: bool) -> None:  # noqa: FBT001
    find = Find(entities=("UUID",), secrets=secrets)
    assert isinstance(detector_for(find), CascadeDetector)
    engine = detector_for(Find(entities=("UUID",), secrets=secrets, parity=Parity.PRESIDIO))
    assert isinstance(engine, PresidioDetector)
    text = "glpat-" + "a1B2c3D4e5F6g7H8i9J0"
    assert [one.entity for one in engine.bounded().detect(text)] == ["GITLAB_TOKEN"] * secrets
