"""Load for /api/tracks/similar, the way listeners would make it: a few tracks are asked for all the time, most hardly ever.

    locust -f exercises/locustfile.py --headless -u 20 -r 10 -t 15s -H http://127.0.0.1:8000

Ends with the 99th percentile, and with exit code 1 when a request failed or none was made. This is a *closed loop*: each user
waits for an answer, thinks, and asks again, so a slow server is asked less. Keep that in mind when you read the figures.
"""
import itertools
import random

from locust import FastHttpUser, between, events, task

from rap_analyzer.core import settings

N, K = settings().tracks, 10
WEIGHTS = list(itertools.accumulate(1 / rank for rank in range(1, N + 1)))  # Zipf: the track of rank r is asked for 1/r as often
IDS = random.Random(7).sample(range(N), N)  # which track has which rank


class Listener(FastHttpUser):
    "Somebody who liked a track, looks at what is similar, and goes on."
    wait_time = between(0.1, 0.5)

    @task
    def similar(self) -> None:
        "Ask for the neighbours of one track, and read the answer."
        [track_id] = random.choices(IDS, cum_weights=WEIGHTS)
        address = f"/api/tracks/similar?track_id={track_id}&k={K}"
        with self.client.get(address, name="/api/tracks/similar", catch_response=True) as r:
            if r.status_code != 200: r.failure(f"status {r.status_code}: {(r.text or '')[:120]}")
            elif len(r.json()["hits"]) != K: r.failure(f"expected {K} hits, got {len(r.json()['hits'])}")


@events.quitting.add_listener
def report(environment, **_) -> None:
    "The figure that a dashboard should show, and an honest exit code."
    total = environment.stats.total
    if total.num_requests:
        print(f"99th percentile {total.get_response_time_percentile(0.99):.0f} ms, median {total.median_response_time:.0f} ms, "
              f"{total.num_requests} requests, {total.num_failures} failed")
    else: print("no request was made")
    environment.process_exit_code = 1 if total.num_failures or not total.num_requests else 0
