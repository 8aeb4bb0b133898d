"""infra/compose.yaml fits the program: without a container runtime, each command, variable, file
and port is held against the real one."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from api.monitoring import ROUTES
from events.settings import SETTINGS, Settings
from tests.test_image import instructions
from workers.cli import main
from workers.options import settings_from

INFRA = Path(__file__).resolve().parent.parent / "infra"
COMPOSE: dict[str, Any] = yaml.safe_load((INFRA / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "runfold"}


def final_context(words: list[str]) -> click.Context:
    """What the command line makes of the words, down to the last command, without running it."""
    command: click.Command = main
    context = main.make_context("runfold", list(words))
    while isinstance(command, click.Group):
        name, found, rest = command.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        assert found is not None
        command, context = found, found.make_context(name, rest, parent=context)
    return context


@pytest.mark.parametrize("name", OURS)
def test_a_service_is_started_as_the_command_line_has_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its command and variables are ones that exist, with values that can be used."""
    service = OURS[name]
    for variable, text in service["environment"].items():
        monkeypatch.setenv(variable, text)
    context = final_context(service["command"])
    fields = {field.name for field in dataclasses.fields(Settings)}
    settings = settings_from({key: at for key, at in context.params.items() if key in fields})
    assert settings.log_place
    own = {variable for setting in SETTINGS for variable in setting.environment}
    own |= {"RUNFOLD_METRICS_PORT"}
    unknown = {one for one in service["environment"] if not one.startswith("AWS_")} - own
    assert unknown == set()


def test_there_are_two_of_each_role() -> None:
    """So that each one's death is somebody else's work."""
    roles = {name for name, service in OURS.items() if service.get("deploy")}
    assert roles == {"api", "projector", "sealer", "gc"}
    assert {OURS[name]["deploy"]["replicas"] for name in roles} == {2}


def test_what_others_made_has_a_version() -> None:
    """No image changes by itself."""
    for name, service in SERVICES.items():
        if name not in OURS:
            assert re.fullmatch(r"[\w./-]+:v?\d+[\w.-]*", service["image"]), service["image"]


def test_what_containers_mount_is_there() -> None:
    """Each file is one of the project's, each volume is declared."""
    for service in SERVICES.values():
        for mount in service.get("volumes", []):
            source = mount.partition(":")[0]
            if source.startswith("."):
                assert (INFRA / source).is_file(), mount
            else:
                assert source in COMPOSE["volumes"], mount


def test_prometheus_finds_every_process() -> None:
    """It asks each service of ours that goes on running, on the port that it listens on."""
    config = yaml.safe_load((INFRA / "monitoring/prometheus.yaml").read_text("utf-8"))
    asked = {
        name: str(found["port"])
        for job in config["scrape_configs"]
        for found in job["dns_sd_configs"]
        for name in found["names"]
    }
    running = {name for name, service in OURS.items() if "deploy" in service}
    environment = {name: OURS[name]["environment"] for name in running}
    assert asked == {
        name: environment[name].get("RUNFOLD_METRICS_PORT", api_port()) for name in running
    }


def api_port() -> str:
    """The port that an API process listens on in the image."""
    variables: dict[str, str] = dict(re.findall(r"(\w+)=(\S+)", dict(instructions())["ENV"]))
    return variables["MLFLOW_PORT"]


def test_the_balancer_asks_and_reaches_every_api() -> None:
    """Whether it is ready, on the port that it listens on; and clients reach the balancer."""
    config = (INFRA / "haproxy.cfg").read_text("utf-8")
    [asked] = re.findall(r"^ *option httpchk GET (\S+)$", config, re.M)
    assert asked == "/ready"
    assert asked in {route.path for route in ROUTES}
    [(name, port)] = re.findall(r"^ *server-template \w+ \d+ (\w+):(\d+) check ", config, re.M)
    assert (name in OURS, port) == (True, api_port())
    [bound] = re.findall(r"^ *bind :(\d+)$", config, re.M)
    assert [ports.partition(":")[2] for ports in SERVICES["balancer"]["ports"]] == [bound]


def test_each_part_starts_after_what_it_needs() -> None:
    """The log's topics are made once Kafka is well, where the parts look for them, and nothing of
    ours starts before that and before its database is well."""
    topics = OURS["topics"]
    assert topics["environment"]["RUNFOLD_LOG_URI"] in topics["command"]
    assert topics["depends_on"]["kafka"] == {"condition": "service_healthy"}
    assert topics["healthcheck"] == {"disable": True}
    for service in OURS.values():
        if "deploy" in service:
            needed = service["depends_on"]
            assert needed["topics"] == {"condition": "service_completed_successfully"}
            assert needed["postgresql"] == {"condition": "service_healthy"}
    assert all("healthcheck" in SERVICES[name] for name in ("kafka", "postgresql"))
