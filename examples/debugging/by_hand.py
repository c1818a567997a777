"""Publishes the mission `words` again as `morning-words`, with a slip, as a person by hand does.

.venv/bin/python examples/debugging/by_hand.py
"""

import json
import subprocess

from confluent_kafka import Producer

from infra.settings import kafka_bootstrap, settings

wanted = 'event.mission_id == "words" && event.type == "mission"'
shown = subprocess.run(
    ["./ralo", "cat", "missions", "--where", wanted, "--json"],
    capture_output=True,
    check=True,
    text=True,
)
mission = json.loads(shown.stdout.splitlines()[0])["event"]
mission["mission_id"] = "morning-words"
mission["budgt"] = mission.pop("budget")
producer = Producer({"bootstrap.servers": kafka_bootstrap(settings())})
producer.produce("missions", json.dumps(mission).encode(), key=b"morning-words")
producer.flush()
print("published morning-words")
