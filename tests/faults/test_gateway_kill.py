"""kill -9 of the gateway under load, and what the next start makes of the ledger."""

import random
import threading
from collections import Counter

import pytest

from tests.faults.program import Home, Prepared
from tests.faults.traffic import Answer, Traffic, chat, ledger, streaming
from tests.serving import wait_until

pytestmark = [pytest.mark.fault, pytest.mark.timeout(240)]

ROUNDS = 3
REQUESTS = [
    chat("quick", tokens=5),
    chat("quick", tokens=30, stream=True),
    chat("slow", tokens=40, stream=True),
    chat("slow", tokens=25),
]


def killed_under_load(tandem: Home, key: str, moment: random.Random) -> list[Answer]:
    """Serve, be asked by several clients, and be killed; what the clients saw."""
    server = tandem.start()
    try:
        server.wait_until_ready()
        long = streaming(server.url, key=key, tokens=2000)
        with Traffic(server.url, key=key, requests=REQUESTS).flowing() as traffic:
            enough = moment.randint(len(REQUESTS) + 1, 40)
            wait_until(lambda: len(traffic.answers) >= enough)
            threading.Event().wait(moment.uniform(0, 0.3))
            server.process.kill()
            server.process.wait()
        wait_until(lambda: not tandem.processes())  # the engines too
        return [*traffic.answers, long.read()]
    finally:
        server.close()


def test_a_killed_gateway_loses_no_usage_and_counts_none_twice(tandem: Home, prepared: Prepared) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    moment = random.Random(seed)
    seen = [answer for _ in range(ROUNDS) for answer in killed_under_load(tandem, prepared.key, moment)]
    with tandem.serving() as server:
        rows = ledger(server.url, prepared.admin_key)
        summed = tandem.json("usage", "--by", "none")[0]
    by_id = {row["id"]: row for row in rows}
    assert len(by_id) == len(rows), "nothing is there twice"
    assert len(rows) <= len(seen), "there is no entry without a request"

    whole = [answer for answer in seen if answer.whole]
    assert len(whole) > ROUNDS * len(REQUESTS)
    for answer in whole:
        assert answer.status == 200, answer.body
        row = by_id[answer.id]
        assert row["outcome"] == "ok"
        assert (row["prompt_tokens"], row["completion_tokens"]) == answer.tokens()

    cut = [answer for answer in seen if answer.id and not answer.whole]
    assert len(cut) >= ROUNDS, "the long stream of each round at least"
    for answer in cut:
        # Settled and killed before the last byte left is fine: it was used.
        assert by_id[answer.id]["outcome"] in {"interrupted", "ok"}
    long = [answer for answer in cut if len(answer.events) < 2000 and not answer.is_finished_stream]
    assert Counter(by_id[answer.id]["outcome"] for answer in long)["interrupted"] >= ROUNDS
    assert summed["completion_tokens"] == sum(row["completion_tokens"] for row in rows)
    assert summed["requests"] == len(rows)
