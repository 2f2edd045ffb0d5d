"""What is heard as MQTT messages, found by Home Assistant as a sensor of its own."""

from __future__ import annotations

import json
import os
import socket
import threading
from typing import Any

from audioset_dcls import __version__
from audioset_dcls.tagging.recordings import safe_name
from preprocessing.terminal import first_line

PORT = 1883
_NOTHING = "nothing"
_PATIENCE = 10.0  # s


class Mqtt:
    """A client of the broker at HOST or HOST:PORT; it connects again by itself.

    Topics, below `dcls/<this machine's name>/`: `event`, a JSON object as one begins or ends; `sound`, what sounds now;
    `status`, online or offline. The name and password are MQTT_USERNAME and MQTT_PASSWORD of the environment.

    Raises ConnectionError if no broker answers, ValueError for what is no host, ModuleNotFoundError without paho-mqtt.
    """

    def __init__(self, address: str) -> None:
        from paho.mqtt import client as paho
        from paho.mqtt.enums import CallbackAPIVersion

        host, _, port = address.partition(":")
        if not host or (port and not port.isdecimal()):
            raise ValueError(f"--mqtt {address}: write HOST or HOST:PORT")
        node = safe_name(socket.gethostname())
        self._node, self._topic = node, f"dcls/{node}"
        self._sounding: dict[int, str] = {}
        self._answered, self._refused = threading.Event(), ""
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=f"dcls-listen-{node}")
        if "MQTT_USERNAME" in os.environ:
            self._client.username_pw_set(os.environ["MQTT_USERNAME"], os.environ.get("MQTT_PASSWORD"))
        self._client.will_set(f"{self._topic}/status", "offline", retain=True)
        self._client.on_connect = self._announce
        try:
            self._client.connect(host, int(port or PORT))
        except (OSError, ValueError) as error:
            raise ConnectionError(f"--mqtt {address}: no broker answers there ({first_line(error)})") from error
        self._client.loop_start()
        if not self._answered.wait(_PATIENCE) or self._refused:
            self._client.loop_stop()
            reason = self._refused or "no answer"
            raise ConnectionError(f"--mqtt {address}: the broker refuses ({reason}); see MQTT_USERNAME, MQTT_PASSWORD")

    def heard(self, event: dict[str, Any]) -> None:
        """Tell of a `News` as plain types."""
        if event["type"] == "start":
            self._sounding[event["number"]] = event["label"]
        else:
            self._sounding.pop(event["number"], None)
        self._client.publish(f"{self._topic}/event", json.dumps(event))
        self._client.publish(f"{self._topic}/sound", self._now(), retain=True)

    def close(self) -> None:
        self._client.publish(f"{self._topic}/status", "offline", retain=True)
        self._client.disconnect()
        self._client.loop_stop()

    def _now(self) -> str:
        return next(reversed(self._sounding.values()), _NOTHING)

    def _announce(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        """Home Assistant's discovery, after each connection: the broker may have forgotten."""
        if reason.is_failure:
            self._refused = str(reason)
            self._answered.set()
            return
        name = f"dcls-listen on {self._node}"
        device = {"identifiers": [f"dcls_{self._node}"], "name": name, "sw_version": __version__}
        sensor = {
            "name": "Sound",
            "unique_id": f"dcls_{self._node}_sound",
            "icon": "mdi:ear-hearing",
            "state_topic": f"{self._topic}/sound",
            "json_attributes_topic": f"{self._topic}/event",
            "availability_topic": f"{self._topic}/status",
            "device": device,
        }
        self._client.publish(f"homeassistant/sensor/dcls_{self._node}/sound/config", json.dumps(sensor), retain=True)
        self._client.publish(f"{self._topic}/status", "online", retain=True)
        self._client.publish(f"{self._topic}/sound", self._now(), retain=True)
        self._answered.set()
