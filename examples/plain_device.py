"""A device of the fleet with nothing of Shoal in it: paho-mqtt and msgpack. The same goes in any language.

    python examples/plain_device.py 127.0.0.1:1883 plain-1 plain-1.password
    shoal nodes                                   (plain-1 is idle and holds the model "double")
    shoal infer double --node plain-1 --input x.npy             (x.npy: float32)

A device's user name on the broker is its node id. Whoever has the broker's credentials folder enrols it:

    from broker.credentials import Credentials, enrol
    print(enrol(Credentials(Path(".shoal/credentials")), "plain-1").password)

What makes it a device (docs/topics.md has every field; those with a default may be left out):

    up/presence         retained, and as the will: the broker says that we are gone when we can't
    up/birth            retained: what we are, and how often our heart beats
    up/reported/models  retained: which models we hold; a request goes to who is "ready"
    up/heartbeat        while it comes, we live
    down/infer/{model}  a request; its one answer goes to up/reply/{caller}
    down/command/{verb} "announce": the cloud has missed our birth
"""

import os
import sys
import time
from array import array

import msgpack
import paho.mqtt.client as mqtt

FLEET, MODEL, HEARTBEAT_S = "main", "double", 1.0


class PlainDevice:
    """``epoch`` tells our boots apart: it grows, so that the will of an old one can't bury a new one."""

    def __init__(self, node: str, password: str) -> None:
        self.node, self.root, self.epoch = node, f"shoal/1/{FLEET}/node/{node}", int(time.time())
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, node, protocol=mqtt.MQTTv5)
        self.client.username_pw_set(node, password)
        gone = {"epoch": self.epoch, "online": False, "reason": "connection lost"}
        self.client.will_set(f"{self.root}/up/presence", msgpack.packb(gone), qos=1, retain=True)
        self.client.on_connect = lambda *_: self.client.subscribe(f"{self.root}/down/#", qos=1)
        self.client.on_subscribe = lambda *_: self.announce()
        self.client.on_message = self.told

    def say(self, topic: str, message: dict, *, qos: int = 1, retain: bool = False) -> None:
        self.client.publish(f"{self.root}/up/{topic}", msgpack.packb(message), qos=qos, retain=retain)

    def announce(self) -> None:
        """Only once we are subscribed: who reads our birth may send at once."""
        memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        able = {"cores": os.cpu_count(), "memory_bytes": memory_bytes, "platform": sys.platform}
        held = {MODEL: {"digest": "built-in", "state": "ready"}}
        birth = {"epoch": self.epoch, "agent_version": "0", "capabilities": able, "heartbeat_s": HEARTBEAT_S}
        self.say("presence", {"epoch": self.epoch, "online": True}, retain=True)
        self.say("birth", birth, retain=True)
        self.say("reported/models", {"epoch": self.epoch, "version": 0, "models": held}, retain=True)

    def told(self, _client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        kind, name = message.topic.removeprefix(f"{self.root}/down/").split("/", 1)
        if kind == "infer":
            self.infer(name, msgpack.unpackb(message.payload))
        elif (kind, name) == ("command", "announce"):
            self.announce()

    def infer(self, model: str, request: dict) -> None:
        """An array travels as [dtype, shape, bytes], little-endian; inputs and outputs are lists of them."""
        reply = {"correlation": request["correlation"], "node": self.node}
        dtype, shape, data = request["inputs"][0] if request["inputs"] else ("nothing", [], b"")
        if model == MODEL and dtype == "float32":
            doubled = array("f", [2 * number for number in array("f", data)])
            reply |= {"status": "ok", "body": [[dtype, shape, doubled.tobytes()]]}
        else:
            reply |= {"status": "refused", "code": "bad-input", "detail": f"{MODEL} takes a float32 array"}
        self.say(f"reply/{request['caller']}", reply)

    def run(self, host: str, port: int) -> None:
        """Until we are killed; paho connects again by itself."""
        self.client.connect(host, port, keepalive=30)
        self.client.loop_start()
        sequence = 0
        while True:
            time.sleep(HEARTBEAT_S)
            sequence += 1
            beat = {"epoch": self.epoch, "sequence": sequence, "state": "idle", "at_unix_s": time.time()}
            if self.client.is_connected():
                self.say("heartbeat", beat, qos=0)


if __name__ == "__main__":
    address, node, password_file = sys.argv[1:]
    host, _, port = address.rpartition(":")
    with open(password_file) as file:
        PlainDevice(node, file.read().strip()).run(host, int(port))
