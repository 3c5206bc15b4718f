"""The real ``shoal`` command against a real fleet."""

import json
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import paho.mqtt.client as paho
import pytest

from tests.support.fleet import (
    EXAMPLE,
    SHOAL,
    RunningFleet,
    clean_environ,
    left_in,
    running_fleet,
    until,
    write_digits,
)


def is_one_line(err: str) -> bool:
    return err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err


READS = [
    (["nodes"], {"node", "status", "why", "models", "labels", "last_heartbeat_age_s"}),
    (["node", "edge-1"], {"node", "status", "why", "capabilities", "models"}),
    (["overview"], {"fleet", "nodes", "cores", "models", "requests"}),
    (["models"], {"name", "version", "digest", "size_bytes"}),
    (["deployments"], {"model", "target", "nodes", "ready", "failures"}),
    (["doctor"], {"check", "ok", "detail", "advice"}),
    (["ledger"], {"node", "stream", "epoch", "produced", "stored", "pending", "exact"}),
    (["telemetry", "edge-1", "system", "--since", "5m"], {"node", "stream", "every_s", "points"}),
    (["telemetry", "edge-1", "system", "--every", "5s", "--plot"], {"node", "stream", "points"}),
    (["command", "edge-1", "ping"], {"node", "verb", "status"}),
    (["deploy", "digits"], {"model", "version", "digest", "target", "nodes"}),
    (["inspect", str(EXAMPLE / "digits.shoal")], {"name", "digest", "tensors", "operators", "modules"}),
]


@pytest.mark.parametrize(("arguments", "keys"), READS, ids=[arguments[0] for arguments, _ in READS])
def test_json_has_the_promised_keys_and_nothing_else_is_printed(
    with_digits: RunningFleet, arguments: list[str], keys: set[str]
) -> None:
    said = with_digits.shoal(*arguments, "--json")
    found = said.json[0] if isinstance(said.json, list) else said.json
    assert keys <= found.keys()
    assert said.err == ""


@pytest.mark.parametrize(("arguments", "keys"), READS, ids=[arguments[0] for arguments, _ in READS])
def test_people_get_a_page_that_fits_80_columns(
    with_digits: RunningFleet, arguments: list[str], keys: set[str]
) -> None:
    said = with_digits.shoal(*arguments)
    assert (said.code, said.err) == (0, "")
    assert said.out.strip()
    assert max(map(len, said.out.splitlines())) <= 80


def test_a_model_is_deployed_and_asked_and_its_answer_explained(
    with_digits: RunningFleet, tmp_path: Path
) -> None:
    expected = write_digits(tmp_path / "digits.npy", 5)
    result = tmp_path / "result"
    answer = with_digits.shoal("infer", "digits", "-i", tmp_path / "digits.npy", "-o", result, "--json").json
    assert np.argmax(answer["outputs"][0], axis=1).tolist() == expected.tolist()
    assert np.array_equal(np.load(result), np.array(answer["outputs"][0], np.float32))
    why = with_digits.shoal("why", answer["request"], "--json").json
    assert (why["request"], why["chosen"]) == (answer["request"], answer["node"])
    assert with_digits.shoal("why", "--json").json["chosen"]


def test_a_person_sees_the_class_and_how_to_ask_why(with_digits: RunningFleet, tmp_path: Path) -> None:
    expected = write_digits(tmp_path / "digit.npy", 1)
    out = with_digits.shoal("infer", "digits", "-i", tmp_path / "digit.npy").out
    assert f"argmax   {expected[0]}" in out
    assert "shoal why operator/" in out


WRONG = [
    (["node", "edge-77"], "shoal nodes"),
    (["deploy", "nothing"], "digits"),
    (["deploy", "digits", "--to", "region="], "label=value"),
    (["why", "nothing"], "not among"),
    (["command", "edge-77", "ping"], "edge-77"),
    (["watch", "a/#/b"], "not a topic filter"),
    (["enrol", "edge-1"], "--renew"),
    (["enrol", "../x"], "not a usable name"),
    (["up", "--port", "0", "--http-port", "0"], "already"),
]


@pytest.mark.parametrize(
    ("arguments", "names"), WRONG, ids=[" ".join(arguments)[:30] for arguments, _ in WRONG]
)
def test_a_mistake_is_one_line_that_says_what_to_do(
    with_digits: RunningFleet, arguments: list[str], names: str
) -> None:
    said = with_digits.shoal(*arguments)
    assert (said.code, said.out) == (1, "")
    assert is_one_line(said.err), said.err
    assert names in said.err


def test_a_wrong_password_is_said_at_once(fleet: RunningFleet) -> None:
    began = time.monotonic()
    said = fleet.shoal("nodes", "--broker", f"mqtt://operator:wrong@127.0.0.1:{fleet.port}")
    assert said.code == 1
    assert is_one_line(said.err), said.err
    assert "password" in said.err
    assert "wrong" not in said.err
    assert time.monotonic() - began < 9  # it does not keep trying for ten seconds


def test_the_password_may_come_from_the_environment(fleet: RunningFleet) -> None:
    text = (fleet.folder / ".shoal/operator.toml").read_text()
    password = re.search('^password = "(.*)"', text, re.MULTILINE)
    assert password is not None
    url = f"mqtt://operator@127.0.0.1:{fleet.port}"
    said = fleet.shoal("nodes", "--broker", url, "--json", SHOAL_BROKER_PASSWORD=password[1])
    assert len(said.json) == 2


def test_the_doctor_finds_a_healthy_fleet_healthy(with_digits: RunningFleet) -> None:
    findings = with_digits.shoal("doctor", "--json").json
    assert [finding for finding in findings if not finding["ok"]] == []
    checks = {finding["check"] for finding in findings}
    assert {"broker", "credentials", "cloud", "cloud clock", "nodes", "edge-1", "edge-2 disk"} <= checks


def test_the_doctor_says_what_to_do_without_a_broker(fleet: RunningFleet) -> None:
    said = fleet.shoal("doctor", "--broker", "mqtt://127.0.0.1:1", "--json")
    last = json.loads(said.out)[-1]
    assert (said.code, last["check"], last["ok"]) == (1, "broker", False)
    assert "shoal up" in last["advice"]


def test_the_doctor_says_what_to_do_with_a_wrong_password(fleet: RunningFleet) -> None:
    url = f"mqtt://operator:wrong@127.0.0.1:{fleet.port}"
    said = fleet.shoal("doctor", "--broker", url, "--json")
    last = json.loads(said.out)[-1]
    assert (said.code, last["check"], last["ok"]) == (1, "credentials", False)
    assert "password" in last["advice"]


def test_the_doctor_says_when_the_cloud_of_this_fleet_is_missing(fleet: RunningFleet) -> None:
    said = fleet.shoal("doctor", "--fleet", "another", "--timeout", "1", "--json")
    last = json.loads(said.out)[-1]
    assert (said.code, last["ok"]) == (1, False)
    assert last["advice"]


def test_watch_decodes_the_json_of_a_plain_device(fleet: RunningFleet) -> None:
    enrolled = fleet.shoal("enrol", "thermometer", "--show", "--json").json
    topic = "node/thermometer/up/telemetry/room"
    watching = subprocess.Popen(
        [SHOAL, "watch", "node/thermometer/#", "--count", "1", "--json"],
        cwd=fleet.folder,
        env=clean_environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, "thermometer", protocol=paho.MQTTv5)
    client.username_pw_set("thermometer", enrolled["password"])
    client.connect("127.0.0.1", fleet.port)
    client.loop_start()
    try:

        def seen() -> bool:
            client.publish(f"shoal/1/main/{topic}", '{"celsius": 21.5}', qos=1)
            return watching.poll() is not None

        until("the message is seen", seen)
    finally:
        client.disconnect()
        client.loop_stop()
        watching.kill()
        out, err = watching.communicate()
    line = json.loads(out)
    assert (line["topic"], line["type"]) == (topic, "TelemetryBatch"), err
    assert 21.5 in line["message"]["samples"][0]["values"].values() or "21.5" in out


def test_watch_takes_the_full_topic_and_shows_what_is_kept(fleet: RunningFleet) -> None:
    said = fleet.shoal("watch", "shoal/1/main/node/edge-1/up/birth", "--count", "1", "--json")
    line = json.loads(said.out)
    assert (line["topic"], line["type"], line["retained"]) == ("node/edge-1/up/birth", "Birth", True)
    assert line["message"]["labels"] == {"region": "us"}


def test_a_device_is_added_to_a_running_fleet(tmp_path: Path) -> None:
    """Enrolled while the broker runs, started with the file it was given, it gets the standing model."""
    with running_fleet(tmp_path, devices=1) as fleet:
        said = fleet.shoal("deploy", EXAMPLE / "digits.shoal", "--wait", "--json")
        assert said.code == 0, said.err
        said = fleet.shoal("enrol", "late-1", "--label", "region=far", "--json")
        file = fleet.folder / ".shoal/late-1.toml"
        assert said.json["config"] == str(file)
        assert "password" not in said.out
        assert file.stat().st_mode & 0o777 == 0o600
        with (fleet.folder / "late-1.log").open("w") as log:
            device = subprocess.Popen(
                [SHOAL, "edge", "--config", str(file)], cwd=fleet.folder, env=clean_environ(), stderr=log
            )
        try:

            def holds_the_model() -> bool:
                found = fleet.shoal("node", "late-1", "--json")
                model = found.json["models"].get("digits", {}) if found.code == 0 else {}
                return bool(model.get("state") == "ready")

            until("the late device holds the model", holds_the_model, fleet.folder / "late-1.log")
            drained = fleet.shoal("command", "late-1", "drain")
            assert drained.code == 0, drained.err
            assert device.wait(20) == 0
        finally:
            device.kill()
            device.wait()


def test_a_reader_who_leaves_early_is_no_error(with_digits: RunningFleet) -> None:
    command = f"{SHOAL} nodes --json | head -n 1"
    done = subprocess.run(
        ["bash", "-c", command], cwd=with_digits.folder, env=clean_environ(), capture_output=True, text=True
    )
    assert done.stderr == ""


def test_a_taken_port_is_named(fleet: RunningFleet, tmp_path: Path) -> None:
    said = fleet.shoal("up", "--folder", tmp_path / "other", "--port", fleet.port)
    assert said.code == 1
    assert is_one_line(said.err), said.err
    assert f"port {fleet.port}" in said.err
    assert "--port" in said.err
    assert left_in(tmp_path / "other") == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    command = [SHOAL, "demo", "--devices", "2", "--json"]
    demo = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=clean_environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A test run in the background of a shell ignores SIGINT, and its children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    until("its processes run", lambda: len(left_in(tmp_path)) >= 3 or demo.poll() is not None)
    demo.send_signal(number)
    out, err = demo.communicate(timeout=30)
    assert (demo.returncode, out, err) == (130, "", "")
    assert left_in(tmp_path) == []


def test_the_processes_of_a_killed_demo_end_by_themselves(tmp_path: Path) -> None:
    command = [SHOAL, "demo", "--devices", "2", "--json"]
    demo = subprocess.Popen(
        command, cwd=tmp_path, env=clean_environ(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    until("its processes run", lambda: len(left_in(tmp_path)) >= 4)
    demo.kill()
    demo.wait()
    until("they have seen that nobody holds them", lambda: left_in(tmp_path) == [])


def test_the_demo_prints_one_json_object(tmp_path: Path) -> None:
    done = subprocess.run(
        [SHOAL, "demo", "--devices", "2", "--json"],
        cwd=tmp_path,
        env=clean_environ(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["digits"], result["same_as_torch"]) == (500, 500)
    assert result["killed"]["failed"] == 0
    assert (result["learned"]["rounds"], result["learned"]["devices"]) == (10, 1)
    assert result["learned"]["accuracy"] > 0.5  # one device of two is left, and it has not seen every digit
    assert left_in(tmp_path) == []
