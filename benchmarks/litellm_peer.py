"""LiteLLM's side of :mod:`benchmarks.litellm`, run by the interpreter of the environment that has it.

    PYTHON -m benchmarks.litellm_peer

Its first line is the body of the request, and it answers ``ready VERSION``. Then it reads lines ``KIND CALLERS EACH``
and answers each with the nanoseconds of processor time that this took. It imports nothing of ours, uses no network
and counts in its own memory: no database, no Redis, which is the least that LiteLLM can cost.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import os
import sys
import time
from importlib.metadata import version
from typing import Any

ROUTE = "/chat/completions"
TOKEN = "key-of-the-benchmark"
BUDGET = 1e9


def offline() -> None:
    """What keeps LiteLLM from looking anything up; to be called before it is imported."""
    os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "HF_HUB_OFFLINE": "1"}


async def answer(body: dict[str, Any]) -> None:
    proxy_server, types, budget_reservation = (
        importlib.import_module(f"litellm.proxy.{name}")
        for name in ("proxy_server", "_types", "spend_tracking.budget_reservation")
    )
    key = types.UserAPIKeyAuth(token=TOKEN, api_key=TOKEN, max_budget=BUDGET, spend=0.0)
    done = 0.0

    async def pair() -> None:
        nonlocal done
        reserved = await budget_reservation.reserve_budget_for_request(
            request_body=body,
            route=ROUTE,
            llm_router=None,
            valid_token=key,
            team_object=None,
            user_object=None,
            prisma_client=None,
            user_api_key_cache=proxy_server.user_api_key_cache,
            proxy_logging_obj=proxy_server.proxy_logging_obj,
            fail_closed_budget_enforcement=True,
        )
        if reserved is None:
            raise SystemExit("LiteLLM reserved nothing")
        cost = reserved["reserved_cost"] / 2
        await budget_reservation.reconcile_budget_reservation(reserved, cost)
        done += cost

    async def count() -> None:
        counts = await budget_reservation.count_request_input_tokens(request_body=body, route=ROUTE, llm_router=None)
        if not counts:
            raise SystemExit("LiteLLM counted nothing")

    kinds = {"pair": pair, "count": count}

    async def caller(kind: str, each: int) -> None:
        for _ in range(each):
            await kinds[kind]()

    await pair()
    print("ready", version("litellm"), flush=True)
    for line in sys.stdin:
        kind, callers, each = line.split()
        gc.collect()
        began = time.process_time_ns()
        await asyncio.gather(*(caller(kind, int(each)) for _ in range(int(callers))))
        print("took", time.process_time_ns() - began, flush=True)
    spent = await proxy_server.get_current_spend(counter_key=f"spend:key:{TOKEN}", fallback_spend=0.0)
    if abs(spent - done) > 1e-6 * done:
        raise SystemExit(f"LiteLLM spent {spent}, not {done}")


if __name__ == "__main__":
    offline()
    asyncio.run(answer(json.loads(sys.stdin.readline())))
