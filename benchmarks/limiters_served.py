"""What a rate limit adds to a request under uvicorn: ours, slowapi's, fastapi-limiter's and throttled-py's.

    python -m benchmarks.limiters_served

Each application runs in a uvicorn process of its own (uvloop and httptools where they are installed); the load, 16
connections, is one more process. All limits are in memory, far above the load, and tell of themselves in headers
where they can (fastapi-limiter cannot). The peers have one rate, by address; ours has it for all callers together,
or by tenant, whom it then knows by a hashed key. fastapi-limiter and throttled-py are dependencies and decorators of
FastAPI, so they are compared with a guard around FastAPI. Requests a second are those of a second of the server's
processor time. A peer that is not installed is left out (``pip install slowapi fastapi-limiter throttled-py``).
"""

from __future__ import annotations

from contextlib import ExitStack
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute

from benchmarks.limits import Empty, Facts, table_of
from benchmarks.load import cpu_us, warm_up
from benchmarks.proxy_app import CONNECTIONS, start
from benchmarks.rounds import Samples, Target, print_table, print_targets, progress
from benchmarks.served import REQUEST
from benchmarks.subjects import FIGURES, guard_with
from tenantguard.adapters.system import real_system
from tenantguard.guard import Guard
from tenantguard.layers.rate_limit import RateLimit
from tenantguard.model.policy import Policy
from tenantguard.model.rate import Rate
from tenantguard.model.sections import RateRule, RateSection, Scope, Signals
from tenantguard.testing import memory_ports

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from tenantguard.flow.layer import Layer

ROUNDS: Final = 9
SECONDS: Final = 0.5
RATE: Final = Rate(10**6, 10**9)
FOUR: Final = Policy.of(
    "acme",
    [RateSection(tuple(RateRule(RATE, one) for one in (Scope.GLOBAL, Scope.TENANT, Scope.ROUTE, Scope.IDENTITY)))],
)

STARLETTE: Final = "Starlette"
EMPTY: Final = "  an empty layer"
QUIET: Final = "  one rate, no headers"
ONE: Final = "  one rate, headers"
EMPTY_TENANT: Final = "  tenant, an empty layer"
FOUR_RATES: Final = "  four rates, headers"
TENANT: Final = "  tenant by key, and rate"
ROUTES: Final = "  one rate, headers, 400 routes"
FASTAPI: Final = "FastAPI"
FASTAPI_QUIET: Final = "  FastAPI: one rate, no headers"
FASTAPI_ONE: Final = "  FastAPI: one rate, headers"
FASTAPI_LIMITER: Final = "fastapi-limiter"
FASTAPI_TENANT: Final = "  FastAPI: tenant by key, and rate"


async def jobs(request: Request) -> Response:
    del request
    return Response(FIGURES, media_type="application/json")


def starlette() -> Any:
    return Starlette(routes=[StarletteRoute("/jobs", jobs)])


def fastapi(*dependencies: Any) -> Any:
    from fastapi import FastAPI  # noqa: PLC0415 - only in the processes that serve it

    app = FastAPI()
    app.get("/jobs", dependencies=list(dependencies))(answer)
    return app


async def answer() -> Any:
    return Response(FIGURES, media_type="application/json")


def guarded(*layers: Layer, routes: int = 2, app: Any = None) -> Any:
    ports = memory_ports(real_system())
    ports.audits = ()
    return Guard(layers, routes=table_of(routes), ports=ports).asgi(app or starlette())


def slowapi_decorator() -> Any:
    from slowapi import Limiter  # noqa: PLC0415 - only in the process that is measured
    from slowapi.util import get_remote_address  # noqa: PLC0415

    limiter = Limiter(key_func=get_remote_address, headers_enabled=True)
    app = Starlette(routes=[StarletteRoute("/jobs", limiter.limit("1000000/second")(jobs))])
    app.state.limiter = limiter
    return app


def slowapi_asgi() -> Any:
    from slowapi import Limiter  # noqa: PLC0415 - as above
    from slowapi.middleware import SlowAPIASGIMiddleware  # noqa: PLC0415
    from slowapi.util import get_remote_address  # noqa: PLC0415

    app = starlette()
    app.state.limiter = Limiter(key_func=get_remote_address, default_limits=["1000000/second"], headers_enabled=True)
    app.add_middleware(SlowAPIASGIMiddleware)
    return app


def fastapi_limiter() -> Any:
    import pyrate_limiter  # noqa: PLC0415 - as above
    from fastapi import Depends  # noqa: PLC0415
    from fastapi_limiter.depends import RateLimiter  # noqa: PLC0415

    rate = pyrate_limiter.Rate(10**6, pyrate_limiter.Duration.SECOND)
    return fastapi(Depends(RateLimiter(pyrate_limiter.Limiter(rate))))


def throttled() -> Any:
    from fastapi import FastAPI, Request  # noqa: PLC0415 - as above
    from throttled.asyncio.contrib.fastapi import Limiter, RateLimitMiddleware, get_remote_address  # noqa: PLC0415

    async def endpoint(request: Request) -> Any:
        del request
        return Response(FIGURES, media_type="application/json")

    endpoint.__annotations__["request"] = Request  # which FastAPI would look for in this module
    app = FastAPI()
    app.add_middleware(RateLimitMiddleware)
    app.get("/jobs")(Limiter("1000000/s", key_func=get_remote_address).limit()(endpoint))
    return app


SUBJECTS: Final[dict[str, tuple[Callable[[], Any], str]]] = {
    STARLETTE: (starlette, "starlette"),
    EMPTY: (lambda: guarded(Empty()), "starlette"),
    QUIET: (lambda: guarded(RateLimit(RATE, signals=Signals.NONE)), "starlette"),
    ONE: (lambda: guarded(RateLimit(RATE)), "starlette"),
    ROUTES: (lambda: guarded(RateLimit(RATE), routes=400), "starlette"),
    EMPTY_TENANT: (lambda: guarded(Facts(FOUR), Empty()), "starlette"),
    FOUR_RATES: (lambda: guarded(Facts(FOUR), RateLimit()), "starlette"),
    TENANT: (lambda: guard_with(("tenant", "rate")).asgi(starlette()), "starlette"),
    "slowapi, its decorator": (slowapi_decorator, "slowapi"),
    "slowapi, its ASGI middleware": (slowapi_asgi, "slowapi"),
    FASTAPI: (fastapi, "fastapi"),
    FASTAPI_QUIET: (lambda: guarded(RateLimit(RATE, signals=Signals.NONE), app=fastapi()), "fastapi"),
    FASTAPI_ONE: (lambda: guarded(RateLimit(RATE), app=fastapi()), "fastapi"),
    FASTAPI_TENANT: (lambda: guard_with(("tenant", "rate")).asgi(fastapi()), "fastapi"),
    FASTAPI_LIMITER: (fastapi_limiter, "fastapi_limiter"),
    "throttled-py": (throttled, "throttled"),
}
"""What each application is made by, and the package that it needs."""


def subject(name: str) -> Any:
    """One application of the table, in the process that is measured."""
    return SUBJECTS[name][0]()


def run() -> list[Target]:
    """Measure, print the table and return what was aimed at."""
    samples = Samples()
    names = [name for name, (_, package) in SUBJECTS.items() if find_spec(package) is not None]
    for name in SUBJECTS.keys() - set(names):
        progress(f"{name.strip()} is not installed")
    with ExitStack() as stack:
        progress(f"uvicorn, {len(names)} servers")
        module = "benchmarks.limiters_served:subject"
        servers = {name: stack.enter_context(start("target", module, name)) for name in names}
        for server in servers.values():
            warm_up(server, REQUEST)
        for number in range(ROUNDS):
            progress(f"uvicorn, round {number + 1} of {ROUNDS}")
            for name, server in servers.items():
                samples.add(name, cpu_us(server, SECONDS, REQUEST, mark=FIGURES))
    on_fastapi = names[names.index(FASTAPI) :]
    bare = {name: FASTAPI if name in on_fastapi else STARLETTE for name in names}
    one = {name: FASTAPI_ONE if name in on_fastapi else ONE for name in names}
    rows = [
        [
            name,
            f"{samples.median(name):.0f}",
            f"{samples.added(name, bare[name]):.1f}",
            f"{1e6 / samples.median(name):.0f}",
            f"{samples.ratio(bare[name], name):.0%}",
            f"{samples.ratio(name, one[name]):.2f}",
        ]
        for name in names
    ]
    print_table(
        f"Under uvicorn: CPU of the server for one request, {CONNECTIONS} connections; limits in memory",
        ("", "us", "added to bare", "requests a CPU second", "of the bare ones", "x our one rate"),
        rows,
    )
    return _targets(samples, bare)


def _targets(samples: Samples, bare: dict[str, str]) -> list[Target]:
    targets = []
    for name, base, most in ((QUIET, EMPTY, 5), (FOUR_RATES, EMPTY_TENANT, 10)):
        added = samples.added(name, base)
        what = f"{name.strip()}: CPU added to an empty layer"
        targets.append(Target(what, f"<= {most} us", f"{added:.1f} us", added <= most))
    ratio = samples.ratio(ROUTES, ONE)
    targets.append(Target("  400 routes, to two", "<= 1.05x", f"{ratio:.2f}x", ratio <= 1.05))
    kept = samples.ratio(STARLETTE, TENANT)
    targets.append(Target("tenant and rate: of the bare requests a second", ">= 65 %", f"{kept:.0%}", kept >= 0.65))
    peers = [name for name in samples.rounds if not name.startswith(" ") and name not in {STARLETTE, FASTAPI}]
    for what, ours in (
        ("tenant and rate", {STARLETTE: TENANT, FASTAPI: FASTAPI_TENANT}),
        ("one rate, told where the peer tells it", {STARLETTE: ONE, FASTAPI: FASTAPI_ONE}),
    ):
        for name in peers:
            own = ours[bare[name]]
            if own == FASTAPI_ONE and name == FASTAPI_LIMITER:
                own = FASTAPI_QUIET
            faster = samples.ratio(name, own)
            added, theirs = samples.added(own, bare[name]), samples.added(name, bare[name])
            seen = f"{faster:.2f}x (added: {added:.0f}, {theirs:.0f} us)"
            targets.append(Target(f"  {what}, to {name}", ">= 1.3x", seen, faster >= 1.3))
    return targets


if __name__ == "__main__":
    print_targets(run())
